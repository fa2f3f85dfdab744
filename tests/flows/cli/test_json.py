"""`--json`: one document on stdout with the values that the text shows."""

import contextlib
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from relearn.flows.cli.app import run_command_line
from relearn.flows.terminal.console import print_json


@dataclass(frozen=True)
class Example:
    """A table and a number, as results of commands have them."""

    table: pd.DataFrame
    value: float


@given(st.lists(st.tuples(st.text(), st.floats()), min_size=1))
def test_tables_and_numbers_are_json_without_nan(rows: list[tuple[str, float]]) -> None:
    """Each row keeps its text and its number; a number that JSON lacks is null."""
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        print_json([Example(pd.DataFrame(rows, columns=["text", "number"]), math.inf)])
    (example,) = json.loads(stdout.getvalue())
    expected = [{"text": text, "number": value if math.isfinite(value) else None} for text, value in rows]
    assert {"table": expected, "value": None} == example


def test_predictions_have_label_and_all_probabilities(
    image_file: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict --json` has one row per file."""
    assert 0 == run_command_line(["predict", str(image_file), "--classifier", str(classifier), "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert str(image_file) == row["file"]
    assert max(row["p_round"], row["p_straight"]) == row["probability"]


def test_status_of_a_new_home_is_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first training each line names its subject, label and text; the last has the next step."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == run_command_line(["status", "--json"])
    lines = json.loads(capsys.readouterr().out)
    assert {"subject", "label", "text"} == set(lines[0])
    assert "relearn run" in lines[-1]["text"]


def test_inspect_has_the_reading_and_its_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data inspect --json` names classes and warnings; no warning is printed beside the document."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    for number in range(8):
        folder = tmp_path / "images" / ("dark" if number % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 12), 20 * number + 10).save(folder / f"{number}.png")
    assert 0 == run_command_line(["data", "inspect", str(tmp_path / "images"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert ["dark", "light"] == sorted(document["classes"])
    assert isinstance(document["warnings"], list)
