"""Promises of the page that a retraining leaves in Prefect."""

import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from relearn.flows.results import (
    GateDecision,
    ReleaseResult,
    RetrainResult,
    ServedPrediction,
    SmokeTestResult,
    TrainResult,
)
from relearn.flows.training.report import report
from relearn.model.data.prepared import PreparedDataset
from relearn.model.data.validation import Finding

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
    epochs=15,
    best_epoch=14,
    stop_reason="all epochs done",
    val_loss=0.06,
    val_accuracy=0.981,
    metrics={"accuracy": 0.9824, "f1_macro": 0.98221},
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
        "metrics": {"accuracy": 0.9891, "f1_macro": 0.98901},
        "training_seconds": 154.6,
    }
)
ANSWER = ServedPrediction(label="7", probability=0.9993, version="3")
RELEASED = ReleaseResult(
    name="mnist",
    run_id="bb",
    gate_decision=GateDecision(action="promote", reasons=("better on reference: +0.67 points",), checks=()),
    live_version="3",
    candidate_version="3",
    smoke_test_result=SmokeTestResult(first_prediction=ANSWER, latency_ms=4.4),
    expected_label="7",
)
SECONDS = {"data": 2.0, "training mlp": 12.0, "training cnn": 156.0, "packaging": 30.0}


def done(trained: list[TrainResult], best: TrainResult, **changes: Any) -> RetrainResult:
    """A retraining whose candidate is `best`."""
    told = {"name": "mnist", "release_result": RELEASED, "stage_seconds": SECONDS} | changes
    return RetrainResult(url="", train_results=tuple(trained), best=best, **told)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    part = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_result_comes_first() -> None:
    """The first lines say how good the candidate is, how it was chosen, and what came of it."""
    page = report(done([MLP, CNN], CNN), DATASET)

    assert page.startswith(
        "# mnist: 98.91% of the test images right\n\nThe candidate is the **cnn**. It did best of 2"
    )
    assert "**PROMOTE**: version 3 is live: better on reference: +0.67 points" in page


def test_a_candidate_that_was_held_is_not_sold_as_released() -> None:
    """The verdict and its reasons, what stays live, and no answer where no server was asked."""
    verdict = GateDecision(action="hold", reasons=("reference: +0.02 points",), checks=())
    held = RELEASED.model_copy(
        update={"gate_decision": verdict, "live_version": "2", "smoke_test_result": None}
    )
    page = report(done([MLP], MLP, release_result=held), DATASET)

    assert "**HOLD**: version 2 stays live, the candidate is held: reference: +0.02 points" in page
    assert "First answer" not in page


def test_one_network_was_not_chosen() -> None:
    """Without another there was no choice to tell of."""
    assert "did best of" not in report(done([MLP], MLP), DATASET)


def test_networks_stand_side_by_side() -> None:
    """The released one first, each with its numbers and the link to its run."""
    page = report(done([MLP, CNN], CNN), DATASET)

    assert [
        ["**cnn**", "542,230", "98.85%", "98.91%", "0.989", "14/15", "60,000", f"[bb]({CNN.url})"],
        ["mlp", "407,050", "98.10%", "98.24%", "0.982", "14/15", "60,000", f"[aa]({MLP.url})"],
    ] == rows(page, "Networks")


def test_released_network_leads_and_the_others_follow_by_validation() -> None:
    """Also where another has the better accuracy, since the loss may have decided."""
    third = MLP.model_copy(update={"network": "own", "val_accuracy": 0.97})
    page = report(done([third, CNN, MLP], MLP), DATASET)

    assert ["mlp", "cnn", "own"] == [row[0].strip("*") for row in rows(page, "Networks")]


def test_warnings_name_their_network() -> None:
    """What deserves a second look stands under the table."""
    careless = MLP.model_copy(update={"warnings": ("training accuracy is 14.0 points above validation",)})

    assert "- mlp: training accuracy is 14.0 points" in report(done([careless], careless), DATASET)


@pytest.mark.parametrize("truth", ["7", "1"])
def test_answer_stands_beside_the_truth(truth: str) -> None:
    """A wrong first answer is not sold as a success."""
    page = report(
        done([MLP], MLP, release_result=RELEASED.model_copy(update={"expected_label": truth})), DATASET
    )

    assert f"version 3 was sent an image of '{truth}' and said '7' with 99.9%; an answer takes 4.4 ms" in page


def test_data_is_described() -> None:
    """Parts, classes, size and the beginning of the fingerprint."""
    page = report(done([MLP], MLP), DATASET)

    assert "48,000 for training, 12,000 for validation, 10,000 for test; 10 classes" in page
    assert "grey images of 28×28 pixels; fingerprint `0123456789ab`" in page
    assert "Nothing was found wrong with it." in page


def test_findings_are_listed() -> None:
    """Each finding with its level."""
    found = DATASET.model_copy(
        update={"findings": [Finding("warning", "balance", "2 classes are rare", 2, "x")]}
    )

    assert "- warning: 2 classes are rare" in report(done([MLP], MLP), found)


def test_time_adds_up() -> None:
    """Every stage with its share, and all of them together."""
    page = report(done([MLP], MLP), DATASET)

    assert [
        ["data", "2.0 s", "1%"],
        ["training mlp", "12.0 s", "6%"],
        ["training cnn", "2 min 36 s", "78%"],
        ["packaging", "30.0 s", "15%"],
        ["**all**", "**3 min 20 s**", ""],
    ] == rows(page, "Time")


def test_names_of_the_user_change_nothing_else() -> None:
    """A class or path with Markdown or HTML in it is shown as it is: as many cells, no new element."""
    odd = "a|b <img src=x> **c** [d](http://e) `f`\n# g"
    dataset = DATASET.model_copy(update={"name": odd, "source": f"folder:/{odd}"})
    trial = SmokeTestResult(first_prediction=ANSWER.model_copy(update={"label": odd, "version": odd}))
    verdict = GateDecision(action="hold", reasons=(odd,), checks=())
    released = RELEASED.model_copy(
        update={"expected_label": odd, "smoke_test_result": trial, "gate_decision": verdict}
    )
    network = MLP.model_copy(update={"network": odd, "warnings": (odd,)})
    told = done([network], network, name=odd, release_result=released, stage_seconds={odd: 1.0})
    page = report(told, dataset)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)

    assert {8, 3} == {len(row) for heading in ("Networks", "Time") for row in rows(page, heading)}
    assert 1 == html.count("<h1>")
    assert "<img" not in html
    assert [MLP.url] == re.findall(r'<a href="(.*?)">', html)
    assert html.count("a|b &lt;img src=x&gt; **c** [d](http://e) `f` # g") >= 7


def test_page_is_short() -> None:
    """One screen and a half."""
    assert len(report(done([MLP, CNN], CNN), DATASET).splitlines()) < 50
