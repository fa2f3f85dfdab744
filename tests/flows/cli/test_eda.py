"""`relearn data eda`: printed tables, files, findings, rejected input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relearn.flows.cli.app import run_command_line

FILES = [
    *("findings.csv", "images.png", "labels.csv", "labels.png", "one_hot.csv"),
    *("pixels.csv", "pixels.png", "preprocessing.csv", "splits.csv", "suspected_labels.csv"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RELEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "home"


def test_tables_are_printed_and_files_written(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables on the terminal, tables and figures in the home; folder and files are printed."""
    assert 0 == run_command_line(["data", "eda", "--dataset", "digits", "--images", "4"])
    printed = capsys.readouterr().out
    for phrase in ("digits: 10 classes", "validation", "Classes are balanced", "float32", "No findings"):
        assert phrase in printed
    assert FILES == sorted(file.name for file in (home / "eda" / "digits").iterdir())
    (line,) = (line for line in printed.splitlines() if f" {home / 'eda' / 'digits'}: " in line)
    assert FILES == sorted(line.rpartition(": ")[2].split(", "))


def test_model_name_and_output_select_folder(home: Path, tmp_path: Path) -> None:
    """Files go to `eda/MODEL_NAME`, or to `--output`."""
    assert 0 == run_command_line(["data", "eda", "--dataset", "digits", "--model-name", "mine"])
    assert FILES == sorted(file.name for file in (home / "eda" / "mine").iterdir())
    assert 0 == run_command_line(["data", "eda", "--dataset", "digits", "--output", str(tmp_path / "out")])
    assert FILES == sorted(file.name for file in (tmp_path / "out").iterdir())


def test_findings_are_printed(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Duplicates, lost resolution and imbalance with their numbers; class names are not markup."""
    images = np.random.default_rng(0).integers(0, 256, (200, 30, 30), np.uint8)
    images[10] = images[0]
    labels = np.where(np.arange(200) % 10, "[red]many", "few")
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    assert 0 == run_command_line(
        ["data", "eda", "--dataset", f"npz:{tmp_path / 'a.npz'}", "--image-size", "16"]
    )
    printed = " ".join(capsys.readouterr().out.split())
    for phrase in ("duplicate", "resolution is lost", "9.0 times", "imbalanced: '[red]many'"):
        assert phrase in printed


def test_suspected_labels_are_printed_with_their_rows(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong label is named by its row, also in the training split."""
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = (100 * labels[:, None, None] + rng.integers(0, 99, (200, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.where(np.arange(200) == 7, 0, labels))
    assert 0 == run_command_line(["data", "eda", "--dataset", f"npz:{tmp_path / 'a.npz'}"])
    table = pd.read_csv(next((home / "eda").glob("*/suspected_labels.csv")))
    assert [(0, 1, "images[7]")] == list(
        table[["label", "predicted", "file"]].itertuples(index=False, name=None)
    )
    assert "Labels that are probably wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits", "--images", "0"], "images: got 0, accepted: 1 or more"),
        (["--dataset", "nothing"], "dataset: got 'nothing', accepted: auto, mnist"),
        (
            ["--dataset", "digits", "--output", "/dev"],
            "--output: got /dev, which is not empty, accepted: a new",
        ),
        (["--dataset", "csv:nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_bad_input_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 2, what was wrong, and no files."""
    assert 2 == run_command_line(["data", "eda", *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert 1 == len(error.strip().splitlines())
    assert not (home / "eda").exists()
