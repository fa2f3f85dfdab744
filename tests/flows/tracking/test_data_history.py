"""Promises of `relearn data history` and `relearn data diff`: data of each run, and changes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relearn.flows.cli.app import run_command_line
from relearn.flows.tracking.data_history import compare_image_lists
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset, read_image_list
from tests.flows.conftest import Ran


def write_image(folder: Path, label: str, index: int) -> Path:
    file = folder / label / f"{index:02}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (8, 8), np.uint8)).save(file)
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Forty images in two classes."""
    for index in range(40):
        write_image(tmp_path / "set", ("[a]", "b")[index % 2], index)
    return tmp_path / "set"


def test_changes_are_listed_by_file(source: Path, tmp_path: Path) -> None:
    """An image that is added, removed, relabeled; a file of another name is no change."""
    home, config = Home(tmp_path / "home", tmp_path), TrainConfig(dataset=str(source))
    before = read_image_list(prepare_dataset(config, home).folder)
    added = write_image(source, "b", 99)
    (source / "[a]" / "02.png").unlink()
    (source / "[a]" / "04.png").rename(source / "b" / "04.png")
    (source / "[a]" / "06.png").rename(source / "[a]" / "renamed.png")
    difference = compare_image_lists(before, read_image_list(prepare_dataset(config, home).folder))
    assert [[str(added), "b"]] == difference.added.to_numpy().tolist()
    assert [[str(source / "[a]" / "02.png"), "[a]"]] == difference.removed.to_numpy().tolist()
    assert [[str(source / "b" / "04.png"), "[a]", "b"]] == difference.relabeled.to_numpy().tolist()
    assert 38 == difference.unchanged + len(difference.moved)


def test_two_sources_are_compared(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No training is needed; tables fit 60 columns, and names are printed as they are."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "60")
    for index in range(39):
        write_image(tmp_path / "other", ("[a]", "b")[index % 2], index)
    assert 0 == run_command_line(["data", "diff", str(source), str(tmp_path / "other")])
    printed = capsys.readouterr().out
    assert "1 removed" in printed
    assert "0 added" in printed
    assert max(map(len, printed.splitlines())) <= 60
    assert 2 == run_command_line(["data", "diff", str(source), "nowhere"])
    assert "got 'nowhere', accepted: the first characters of a run id" in capsys.readouterr().err


def test_history_names_what_was_learned(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each training has a line with date, run and data; images by class and split are below; 60 columns."""
    monkeypatch.setenv("RELEARN_HOME", str(ran.home.root))
    monkeypatch.setenv("COLUMNS", "60")
    assert 0 == run_command_line(["data", "history"])
    printed = capsys.readouterr().out
    fingerprint = prepare_dataset(TrainConfig(dataset="digits"), ran.home).fingerprint
    assert f"data {fingerprint[:12]}" in printed
    assert "all 10 classes" in printed
    assert max(map(len, printed.splitlines())) <= 60
    assert 0 == run_command_line(["data", "diff", fingerprint[:8], "digits"])
    assert "1,797 unchanged" in capsys.readouterr().out
