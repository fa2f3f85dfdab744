"""Homes that cannot be written and disks that are full: one line, exit code, no partial file."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relearn.flows.cli.app import run_command_line
from relearn.model.home import Home

Capture = pytest.CaptureFixture[str]
TRAIN = ["train", "--dataset", "digits", "--epochs", "2"]


def infrastructure_error(arguments: list[str], capsys: Capture) -> str:
    """Run a command that has to fail with exit code 3; return its one line on standard error."""
    assert 3 == run_command_line(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error[infrastructure]: ")
    return line


def partial_files(home: Path) -> list[Path]:
    """Return temporary files of interrupted writes."""
    return [path for path in home.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("command", [["train"], ["run"], ["data", "eda"]])
def test_file_in_place_of_home_is_rejected(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The file is named and not changed."""
    home = tmp_path / "home"
    home.write_text("kept")
    monkeypatch.setenv("RELEARN_HOME", str(home))

    assert 2 == run_command_line(command)
    assert f"RELEARN_HOME: got '{home}', which is a file" in capsys.readouterr().err
    assert "kept" == home.read_text()


@pytest.mark.parametrize("command", [["train"], ["run"], ["data", "eda"]])
def test_read_only_home_is_reported(
    command: list[str], disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Before any work, with the path of the folder."""
    disk_root = disk("size=1m,ro")
    monkeypatch.delenv("PREFECT_HOME")

    line = infrastructure_error(command, capsys)
    assert "Read-only file system" in line
    assert str(disk_root) in line


@pytest.mark.usefixtures("on_server")
def test_data_too_large_for_disk_leaves_no_partial_files(
    disk: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The folder is named and stays empty."""
    disk_root = disk("size=64k")
    database = tmp_path / "mlflow.db"  # on a disk with free space
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")

    datasets = disk_root / "home" / "datasets"
    assert f"cannot prepare the data in {datasets}: " in infrastructure_error(TRAIN, capsys)
    assert [] == list(datasets.rglob("*.npy"))
    assert [] == partial_files(disk_root)


@pytest.mark.usefixtures("on_server")
@pytest.mark.parametrize("free_bytes", [0, 100_000, 500_000])
def test_disk_that_fills_up_during_training_is_one_line(
    free_bytes: int, copy: Callable[[Path], Home], disk: Callable[[str], Path], capsys: Capture
) -> None:
    """At any point; earlier runs stay readable, and the next command works once there is space."""
    disk_root = disk("size=8m")
    home = copy(disk_root / "home").root
    (disk_root / "filler").write_bytes(bytes(shutil.disk_usage(disk_root).free - free_bytes))

    line = infrastructure_error(TRAIN, capsys)
    assert [] == partial_files(home)
    (disk_root / "filler").unlink()
    assert 0 == run_command_line(["compare"])
    assert "best first" in capsys.readouterr().out
    if "--resume" in line:
        assert 0 == run_command_line(["train", "--resume"])
