"""A home that takes nothing: one line, its exit code, and no half of a file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from relearn.flows.cli.app import run_command_line
from relearn.model.home import Home

Capture = pytest.CaptureFixture[str]
TRAIN = ["train", "--dataset", "digits", "--epochs", "2"]


def fails(arguments: list[str], capsys: Capture) -> str:
    """The one line on stderr of a command line that the machine stops."""
    assert 3 == run_command_line(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error[infrastructure]: ")
    return line


def half_written(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("verb", [["train"], ["run"], ["eda"], ["backprop"]])
def test_a_file_in_the_place_of_the_home_is_named(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """It is kept as it is."""
    home = tmp_path / "home"
    home.write_text("kept")
    monkeypatch.setenv("RELEARN_HOME", str(home))

    assert 2 == run_command_line(verb)
    assert f"RELEARN_HOME: got '{home}', which is a file" in capsys.readouterr().err
    assert "kept" == home.read_text()


@pytest.mark.parametrize("verb", [["train"], ["run"], ["eda"], ["backprop"]])
def test_a_home_that_cannot_be_written_is_said(
    verb: list[str], disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Before any work, with the folder that refuses."""
    place = disk("size=1m,ro")
    monkeypatch.delenv("PREFECT_HOME")

    line = fails(verb, capsys)
    assert "Read-only file system" in line
    assert str(place) in line


@pytest.mark.usefixtures("on_server")
def test_data_that_does_not_fit_on_the_disk_is_not_half_prepared(
    disk: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The folder is named, and nothing of it stays."""
    place = disk("size=64k")
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}"
    )  # it has a disk with room

    assert f"cannot prepare the data in {place / 'home' / 'datasets'}: " in fails(TRAIN, capsys)
    assert [] == list((place / "home" / "datasets").rglob("*.npy"))
    assert [] == half_written(place)


@pytest.mark.usefixtures("on_server")
@pytest.mark.parametrize("free", [0, 100_000, 500_000])
def test_a_disk_that_fills_up_in_a_training_is_one_line(
    free: int, copy: Callable[[Path], Home], disk: Callable[[str], Path], capsys: Capture
) -> None:
    """Wherever it happens; what was there before is not damaged, and there is room again afterwards."""
    place = disk("size=8m")
    home = copy(place / "home").root
    (place / "filler").write_bytes(bytes(os.statvfs(place).f_bavail * os.statvfs(place).f_frsize - free))

    line = fails(TRAIN, capsys)
    assert [] == half_written(home)
    (place / "filler").unlink()
    assert 0 == run_command_line(["compare"])
    assert "best first" in capsys.readouterr().out
    if "--resume" in line:
        assert 0 == run_command_line(["train", "--resume"])
