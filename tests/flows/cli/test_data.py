"""`relearn data inspect`: the reading in ten lines, a file of it, names that are data, rejected input."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relearn.flows.cli.app import run_command_line
from relearn.flows.cli.data import _list_examples
from relearn.model.description.raw_dataset import RawDataset, RawSplit
from relearn.model.description.source_description import SplitName
from relearn.model.files import to_csv

NAMES = ("[x]*", "[:b]", "=1+1", "tab\there")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of four classes with names that terminals, markup and spreadsheets would interpret."""
    monkeypatch.setenv("COLUMNS", "200")
    rng = np.random.default_rng(0)
    for index in range(48):
        file = tmp_path / "set" / NAMES[index % 4] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(file)
    return tmp_path / "set"


def test_reading_is_shown_in_ten_lines(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kind, counts, splits, classes and pixels; class names are printed as they are, without controls."""
    assert 0 == run_command_line(["data", "inspect", str(source)])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 10
    for phrase in (
        "a folder of image files for each class",
        "48 train",
        "[:b], [x]*",
        r"tab\there",
        "48 PNG; 8 × 8",
    ):
        assert phrase in printed


def test_reading_is_saved_and_passed_on(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--save writes a dataset.toml that --dataset takes, and never replaces a file."""
    file, sheet = source.parent / "dataset.toml", source.parent / "sheet.png"
    arguments = ["data", "inspect", str(source), "--save", str(file), "--contact-sheet", str(sheet)]
    assert 0 == run_command_line(arguments)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert 0 == run_command_line(["data", "eda", "--dataset", str(file), "--images", "4"])
    assert "48 train" in capsys.readouterr().out
    sheet.unlink()
    assert 2 == run_command_line(arguments)
    assert f"{file} exists" in capsys.readouterr().err


def test_contact_sheet_has_four_images_of_each_class() -> None:
    """All splits count, and a class has up to four."""
    images, classes = np.zeros((10, 1, 8, 8), np.uint8), np.array(list("aaaaaabbbb"))
    places = np.arange(10).astype(str)
    parts: dict[SplitName, slice] = {"train": slice(0, 9, 2), "test": slice(1, 10, 2)}
    splits = {name: RawSplit(images[part], classes[part], places[part]) for name, part in parts.items()}
    assert [label for _, label in _list_examples(RawDataset(splits))] == list("aaaabbbb")


def test_built_in_dataset_is_not_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what is accepted."""
    assert 2 == run_command_line(["data", "inspect", "digits"])
    assert "source: got 'digits', accepted: your own data" in capsys.readouterr().err


def test_class_names_are_no_formulas(source: Path) -> None:
    """In a CSV for spreadsheets a name such as =1+1 is text, and a number stays one."""
    import pandas as pd

    frame = pd.DataFrame({"class": [*NAMES, "-1", "@a"], "count": [-1, 2, 3, 4, 5, 6]})
    lines = to_csv(frame).splitlines()
    assert ["class,count", "[x]*,-1", "[:b],2", "'=1+1,3", "tab\there,4", "-1,5", "'@a,6"] == lines
