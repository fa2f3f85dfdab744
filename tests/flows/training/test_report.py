"""The report of a retraining."""

import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from relearn.flows.results import (
    GateDecision,
    ReleaseResult,
    RetrainResult,
    ServedPrediction,
    SmokeTestResult,
    TrainResult,
)
from relearn.flows.training.report import build_networks_table, to_markdown
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.preparation.prepared import PreparedDataset
from relearn.model.preparation.validation import Finding

DATASET = PreparedDataset(
    folder=Path("prepared"),
    name="mnist",
    uri="mnist",
    classes=tuple("0123456789"),
    style="mnist",
    shape=(1, 28, 28),
    fingerprint="0123456789abcdef" * 4,
    extra_images=None,
    counts={"training": [24_000, 24_000], "validation": [12_000], "test": [10_000]},
    findings=[],
    files={},
)
MLP = TrainResult(
    run_id="aa",
    url="http://127.0.0.1:5000/#/experiments/1/runs/aa",
    network="mlp",
    parameter_count=407_050,
    summary="best epoch 14 of 15: all epochs done",
    val_loss=0.06,
    val_accuracy=0.981,
    val_balanced_accuracy=0.98,
    metrics=Accuracy.from_counts(9_824, 10_000).metrics,
    warnings=(),
    training_seconds=12.34,
    images_per_second=60_000,
)
CNN = MLP.model_copy(
    update={
        "run_id": "bb",
        "url": "http://127.0.0.1:5000/#/experiments/1/runs/bb",
        "network": "cnn",
        "parameter_count": 542_230,
        "val_accuracy": 0.9885,
        "metrics": Accuracy.from_counts(9_891, 10_000).metrics,
        "training_seconds": 154.6,
    }
)
ANSWER = ServedPrediction(label="7", probability=0.9993, version="3")
RELEASED = ReleaseResult(
    name="mnist",
    run_id="bb",
    gate_decision=GateDecision(action="promote", reasons=("better: +0.67 points",), checks=()),
    live_version="3",
    candidate_version="3",
    smoke_test_result=SmokeTestResult(first_prediction=ANSWER, latency_ms=4.4),
    expected_label="7",
)
NETWORKS_TITLE = "Networks: accuracy in %, 95 % interval on 10,000 test images"
SECONDS = {"data": 2.0, "training mlp": 12.0, "training cnn": 156.0, "packaging": 30.0}


def make_result(train_results: list[TrainResult], best: TrainResult, **changes: Any) -> RetrainResult:
    """Build the result of a retraining whose candidate is `best`."""
    fields = {"name": "mnist", "release_result": RELEASED, "stage_seconds": SECONDS} | changes
    return RetrainResult(url="", train_results=tuple(train_results), best=best, **fields)


def parse_rows(markdown: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its header."""
    section = markdown.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_result_comes_first() -> None:
    """The first lines have accuracy with its interval, selection and gate decision of the candidate."""
    markdown = to_markdown(make_result([MLP, CNN], CNN), DATASET)

    assert markdown.startswith(
        "# mnist: test accuracy 98.9 % (95 % interval 98.7–99.1, 10,000 images)\n\n"
        "The candidate is the **cnn**. It was the best of 2"
    )
    assert "**PROMOTE**: version 3 is live: better: +0.67 points" in markdown


def test_held_candidate_is_not_reported_as_released() -> None:
    """The report has the decision, the live version, and no prediction without a smoke test."""
    decision = GateDecision(action="hold", reasons=("reference: +0.02 points",), checks=())
    held = RELEASED.model_copy(
        update={"gate_decision": decision, "live_version": "2", "smoke_test_result": None}
    )
    markdown = to_markdown(make_result([MLP], MLP, release_result=held), DATASET)

    assert "**HOLD**: version 2 stays live, the candidate is held: reference: +0.02 points" in markdown
    assert "First prediction" not in markdown


def test_single_network_was_not_selected() -> None:
    """The report of one network mentions no selection."""
    assert "the best of" not in to_markdown(make_result([MLP], MLP), DATASET)


def test_networks_are_rows_of_a_table() -> None:
    """The candidate is first; each row has metrics and a link to the run."""
    markdown = to_markdown(make_result([MLP, CNN], CNN), DATASET)

    assert [
        ["**cnn**", "542,230", "98.85", "98.9 (98.7–99.1)", f"[bb]({CNN.url})"],
        ["mlp", "407,050", "98.10", "98.2 (98.0–98.5)", f"[aa]({MLP.url})"],
    ] == parse_rows(markdown, NETWORKS_TITLE)


def test_networks_fit_60_columns() -> None:
    """No cell is folded on a terminal that is 60 columns wide."""
    console = Console(width=60, record=True)
    console.print(build_networks_table([MLP, CNN], CNN))

    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert any("98.9 (98.7–99.1)" in line and "542,230" in line and "bb" in line for line in lines)


def test_candidate_is_first_and_the_others_follow_by_validation_accuracy() -> None:
    """Another network may have a better accuracy, since the loss may have decided."""
    custom = MLP.model_copy(update={"network": "own", "val_accuracy": 0.97})
    markdown = to_markdown(make_result([custom, CNN, MLP], MLP), DATASET)

    assert ["mlp", "cnn", "own"] == [row[0].strip("*") for row in parse_rows(markdown, NETWORKS_TITLE)]


def test_warnings_name_their_network() -> None:
    """The warnings of a training are listed under the table."""
    overfitted = MLP.model_copy(update={"warnings": ("training accuracy is 14.0 points above validation",)})

    assert "- mlp: training accuracy is 14.0 points" in to_markdown(
        make_result([overfitted], overfitted), DATASET
    )


@pytest.mark.parametrize("label", ["7", "1"])
def test_first_prediction_has_the_expected_label(label: str) -> None:
    """A wrong first prediction is visible."""
    markdown = to_markdown(
        make_result([MLP], MLP, release_result=RELEASED.model_copy(update={"expected_label": label})), DATASET
    )

    expected = (
        f"version 3 classified an image of '{label}' as '7' (probability 99.9%). Median latency: 4.4 ms"
    )
    assert expected in markdown


def test_data_is_described() -> None:
    """The report has splits, classes, image size and the start of the fingerprint."""
    markdown = to_markdown(make_result([MLP], MLP), DATASET)

    assert "48,000 for training, 12,000 for validation, 10,000 for test; 10 classes" in markdown
    assert "gray images of 28×28 pixels; fingerprint `0123456789ab`" in markdown
    assert "The checks found no problem." in markdown


def test_findings_are_listed() -> None:
    """Each finding has its level."""
    dataset = DATASET.model_copy(
        update={"findings": [Finding("warning", "balance", "2 classes are rare", 2, "x")]}
    )

    assert "- warning: 2 classes are rare" in to_markdown(make_result([MLP], MLP), dataset)


def test_time_adds_up() -> None:
    """Every stage has its share; the last row is the total."""
    markdown = to_markdown(make_result([MLP], MLP), DATASET)

    assert [
        ["data", "2.0 s", "1%"],
        ["training mlp", "12.0 s", "6%"],
        ["training cnn", "2 min 36 s", "78%"],
        ["packaging", "30.0 s", "15%"],
        ["**total**", "**3 min 20 s**", ""],
    ] == parse_rows(markdown, "Time")


def test_untrusted_text_is_escaped() -> None:
    """Markdown or HTML in a class or path adds no cell and no element."""
    text = "a|b <img src=x> **c** [d](http://e) `f`\n# g"
    dataset = DATASET.model_copy(update={"name": text, "uri": f"folder:/{text}"})
    prediction = ANSWER.model_copy(update={"label": text, "version": text})
    decision = GateDecision(action="hold", reasons=(text,), checks=())
    released = RELEASED.model_copy(
        update={
            "expected_label": text,
            "smoke_test_result": SmokeTestResult(first_prediction=prediction),
            "gate_decision": decision,
        }
    )
    network = MLP.model_copy(update={"network": text, "warnings": (text,)})
    result = make_result([network], network, name=text, release_result=released, stage_seconds={text: 1.0})
    markdown = to_markdown(result, dataset)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)

    assert {5, 3} == {
        len(row) for heading in (NETWORKS_TITLE, "Time") for row in parse_rows(markdown, heading)
    }
    assert 1 == html.count("<h1>")
    assert "<img" not in html
    assert [MLP.url] == re.findall(r'<a href="(.*?)">', html)
    assert html.count("a|b &lt;img src=x&gt; **c** [d](http://e) `f` # g") >= 7


def test_report_is_short() -> None:
    """It has fewer than 50 lines."""
    assert len(to_markdown(make_result([MLP, CNN], CNN), DATASET).splitlines()) < 50
