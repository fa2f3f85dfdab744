"""Homes and current folders that a user cannot enter, or that do not exist any more."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relearn.model.home import measure_free_bytes

# Root passes every permission unless it gives these two capabilities away.
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


def run_in(folder: Path, before: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run relearn in `folder` without privileges, after the shell command `before`."""
    privileged = os.geteuid() == 0
    if privileged and shutil.which("setpriv") is None:
        pytest.skip("setpriv not on the PATH")
    relearn = [*(WITHOUT_PRIVILEGES if privileged else []), sys.executable, "-m", "relearn", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RELEARN_HOME"}
    return subprocess.run(
        ["sh", "-c", f'{before}; exec "$@"', "sh", *relearn],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def locked(tmp_path: Path):
    """A folder that is about to be locked with `chmod 0 .`, and is opened again for pytest to remove it."""
    folder = tmp_path / "locked"
    folder.mkdir()
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize("variables", [{}, {"RELEARN_HOME": "/tmp/relearn-elsewhere"}])
def test_locked_current_folder_is_one_line(locked: Path, variables: dict[str, str]) -> None:
    """With the home in it or elsewhere: the folder is named, and nothing is imported or made."""
    done = run_in(locked, "chmod 0 .", "train", **variables)
    line = f"error[user_input]: this user may not enter the current folder {locked}; change to another one\n"
    assert (2, line, "") == (done.returncode, done.stderr, done.stdout)


@pytest.mark.parametrize("variables", [{}, {"RELEARN_HOME": "/tmp/relearn-elsewhere"}])
def test_removed_current_folder_is_one_line(tmp_path: Path, variables: dict[str, str]) -> None:
    """With the home in it or elsewhere, before torch is imported, which would end the process."""
    folder = tmp_path / "removed"
    folder.mkdir()
    done = run_in(folder, f"rmdir {folder}", "run", **variables)
    line = "error[user_input]: the current folder was deleted; change to another one\n"
    assert (2, line, "") == (done.returncode, done.stderr, done.stdout)


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_help_needs_no_home(locked: Path, flag: str) -> None:
    """Help and versions are printed also in a folder that cannot be entered."""
    done = run_in(locked, "chmod 0 .", flag)
    assert (0, "") == (done.returncode, done.stderr)
    assert "relearn" in done.stdout


def test_home_inside_locked_folder_is_one_line(locked: Path, tmp_path: Path) -> None:
    """The path and the reason are named."""
    done = run_in(tmp_path, f"chmod 0 {locked}", "doctor", "--settings", RELEARN_HOME=str(locked / "home"))
    line = f"error[user_input]: RELEARN_HOME: '{locked}/home' cannot be used: Permission denied; accepted: "
    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith(line)
    assert 1 == done.stderr.count("\n")


def test_home_with_too_long_name_is_one_line(tmp_path: Path) -> None:
    """A name has at most 255 bytes; the line is short all the same."""
    done = run_in(tmp_path, "true", "doctor", "--settings", RELEARN_HOME=str(tmp_path / ("a" * 300)))
    assert (2, "") == (done.returncode, done.stdout)
    assert "cannot be used: File name too long; accepted: a folder" in done.stderr
    assert 1 == done.stderr.count("\n")
    assert len(done.stderr) < 400


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_free_space_of_a_file_system_without_a_size_is_unknown(tmp_path: Path) -> None:
    """A ramfs or /proc is not full: it reports 0 of 0 bytes."""
    assert measure_free_bytes(Path("/proc")) is None
    assert (measure_free_bytes(tmp_path / "missing") or 0) > 0
