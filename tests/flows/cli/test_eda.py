"""Promises of `relearn eda`."""

from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line

FILES = [
    *("findings.csv", "images.png", "labels.csv", "labels.png", "one_hot.csv"),
    *("pixels.csv", "pixels.png", "preprocessing.csv", "splits.csv"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RELEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "home"


def test_it_prints_tables_and_writes_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables on the screen, tables and figures in the home, and each path printed."""
    assert 0 == run_command_line(["eda", "--dataset", "digits", "--images", "4"])
    printed = capsys.readouterr().out
    for text in ("digits: 10 classes", "validation", "Classes are balanced", "float32", "No findings"):
        assert text in printed
    assert FILES == sorted(file.name for file in (home / "eda" / "digits").iterdir())
    for name in FILES:
        assert str(home / "eda" / "digits" / name) in printed.splitlines()


def test_name_and_output_decide_where(home: Path, tmp_path: Path) -> None:
    """Files go to `eda/NAME`, or where they are asked for."""
    assert 0 == run_command_line(["eda", "--dataset", "digits", "--model-name", "mine"])
    assert FILES == sorted(file.name for file in (home / "eda" / "mine").iterdir())
    assert 0 == run_command_line(["eda", "--dataset", "digits", "--output", str(tmp_path / "out")])
    assert FILES == sorted(file.name for file in (tmp_path / "out").iterdir())


def test_findings_are_shown(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Duplicates, lost resolution and imbalance are told, with their numbers; class names are not markup."""
    images = np.random.default_rng(0).integers(0, 256, (200, 30, 30), np.uint8)
    images[10] = images[0]
    labels = np.where(np.arange(200) % 10, "[red]many", "few")
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    assert 0 == run_command_line(["eda", "--dataset", f"npz:{tmp_path / 'a.npz'}", "--image-size", "16"])
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("duplicate", "resolution is lost", "9.0 times", "imbalanced: '[red]many'"):
        assert text in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits", "--images", "0"], "images: got 0, accepted: 1 or more"),
        (["--dataset", "nothing"], "dataset: got 'nothing', accepted: auto, mnist"),
        (
            ["--dataset", "digits", "--output", "/dev"],
            "--output: /dev is there and not empty, accepted: a new",
        ),
        (["--dataset", "csv:nowhere.csv"], "nowhere.csv is not there"),
    ],
)
def test_bad_input_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit code 2, what was wrong, and no files."""
    assert 2 == run_command_line(["eda", *arguments])
    error = capsys.readouterr().err
    assert message in error
    assert 1 == len(error.strip().splitlines())
    assert not (home / "eda").exists()
