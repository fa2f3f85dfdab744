"""Promises of the page that a retraining leaves in Prefect."""

import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from flows.report import NetworkResult, ServedAnswer, report

DATASET: dict[str, Any] = {
    "name": "mnist",
    "source": "mnist",
    "classes": tuple("0123456789"),
    "shape": (1, 28, 28),
    "fingerprint": "0123456789abcdef" * 4,
    "counts": {"training": 48_000, "validation": 12_000, "test": 10_000},
    "findings": [],
}
MLP = NetworkResult(
    name="mlp",
    val_accuracy=0.981,
    test_accuracy=0.9824,
    f1_macro=0.98221,
    seconds=12.34,
    parameters=407_050,
    url="http://127.0.0.1:5000/#/experiments/1/runs/aa",
    warnings=[],
)
CNN = NetworkResult(
    name="cnn",
    val_accuracy=0.9885,
    test_accuracy=0.9891,
    f1_macro=0.98901,
    seconds=154.6,
    parameters=542_230,
    url="http://127.0.0.1:5000/#/experiments/1/runs/bb",
    warnings=[],
)
ANSWER = ServedAnswer(truth="7", label="7", probability=0.9993, version="3", milliseconds=4.4)
SECONDS = {"data": 2.0, "training mlp": 12.0, "training cnn": 156.0, "packaging": 30.0}


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    part = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_result_comes_first() -> None:
    """The first lines say how good the released network is, and how it was chosen."""
    page = report(DATASET, [MLP, CNN], "cnn", ANSWER, SECONDS)

    assert page.startswith(
        "# mnist: 98.91% of the test images right\n\nVersion 3 is the **cnn**. It did best of 2"
    )


def test_one_network_was_not_chosen() -> None:
    """Without another there was no choice to tell of."""
    assert "did best of" not in report(DATASET, [MLP], "mlp", ANSWER, SECONDS)


def test_networks_stand_side_by_side() -> None:
    """The released one first, each with its numbers and the link to its run."""
    page = report(DATASET, [MLP, CNN], "cnn", ANSWER, SECONDS)

    assert [
        [f"**[cnn]({CNN['url']})**", "98.85%", "98.91%", "0.9890", "542,230", "2 min 35 s"],
        [f"[mlp]({MLP['url']})", "98.10%", "98.24%", "0.9822", "407,050", "12.3 s"],
    ] == rows(page, "Networks")


def test_released_network_leads_and_the_others_follow_by_validation() -> None:
    """Also where another has the better accuracy, since the loss may have decided."""
    third = NetworkResult(**{**MLP, "name": "own", "val_accuracy": 0.97})
    page = report(DATASET, [third, CNN, MLP], "mlp", ANSWER, SECONDS)

    assert ["mlp", "cnn", "own"] == [row[0].strip("*[").split("]")[0] for row in rows(page, "Networks")]


def test_warnings_name_their_network() -> None:
    """What deserves a second look stands under the table."""
    careless = NetworkResult(**{**MLP, "warnings": ["training accuracy is 14.0 points above validation"]})

    assert "- mlp: training accuracy is 14.0 points" in report(DATASET, [careless], "mlp", ANSWER, SECONDS)


@pytest.mark.parametrize(("truth", "words"), [("7", "image (right)"), ("1", "image (wrong, it is **1**)")])
def test_answer_is_judged(truth: str, words: str) -> None:
    """A wrong first answer is not sold as a success."""
    page = report(DATASET, [MLP], "mlp", ServedAnswer(**{**ANSWER, "truth": truth}), SECONDS)

    assert f"said **7** with 99.9% to the first test {words}, from version 3, in 4 ms" in page


def test_data_is_described() -> None:
    """Parts, classes, size and the beginning of the fingerprint."""
    page = report(DATASET, [MLP], "mlp", ANSWER, SECONDS)

    assert "48,000 for training, 12,000 for validation, 10,000 for test; 10 classes" in page
    assert "grey images of 28×28 pixels; fingerprint `0123456789ab`" in page
    assert "Nothing was found wrong with it." in page


def test_findings_are_listed() -> None:
    """Each finding with its level."""
    found = {
        "level": "warning",
        "check": "balance",
        "message": "2 classes are rare",
        "count": 2,
        "example": "x",
    }

    assert "- warning: 2 classes are rare" in report(
        DATASET | {"findings": [found]}, [MLP], "mlp", ANSWER, SECONDS
    )


def test_time_adds_up() -> None:
    """Every stage with its share, and all of them together."""
    page = report(DATASET, [MLP], "mlp", ANSWER, SECONDS)

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
    dataset = DATASET | {"name": odd, "source": f"folder:/{odd}"}
    answer = ServedAnswer(**{**ANSWER, "label": odd, "truth": odd, "version": odd})
    network = NetworkResult(**{**MLP, "name": odd, "warnings": [odd]})
    page = report(dataset, [network], odd, answer, {odd: 1.0})
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)

    assert {6, 3} == {len(row) for heading in ("Networks", "Time") for row in rows(page, heading)}
    assert 1 == html.count("<h1>")
    assert "<img" not in html
    assert [MLP["url"]] == re.findall(r'<a href="(.*?)">', html)
    assert html.count("a|b &lt;img src=x&gt; **c** [d](http://e) `f` # g") >= 7


def test_page_is_short() -> None:
    """One screen and a half."""
    assert len(report(DATASET, [MLP, CNN], "cnn", ANSWER, SECONDS).splitlines()) < 50
