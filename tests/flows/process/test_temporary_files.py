"""Temporary files of a process that is killed."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from relearn.flows.process.temporary_files import OWNER_FILE, PREFIX, remove_orphaned_folders
from relearn.model.process_identity import identify_process

PROGRAM = """
import os, signal, sys, tempfile
from relearn.flows.process.temporary_files import use_own_folder
use_own_folder()
use_own_folder()
folder = tempfile.mkdtemp()
print(folder, os.environ["TMPDIR"] == os.path.dirname(folder))
sys.stdout.flush()
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def run_program(end: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, end], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_folder_is_deleted_at_the_exit(tmp_path: Path) -> None:
    """All temporary files of the process lie in it."""
    code, output = run_program("exit")
    folder, is_in_own_folder = output.split()
    assert (0, "True") == (code, is_in_own_folder)
    assert Path(folder).parents[1] == tmp_path
    assert [] == list(tmp_path.iterdir())


def test_folder_of_a_killed_process_is_deleted_by_the_next(tmp_path: Path) -> None:
    """Folders of living processes and of others than Relearn stay."""
    code, _ = run_program("kill")
    assert -signal.SIGKILL == code
    (lost,) = tmp_path.glob(f"{PREFIX}*")
    living, foreign = tmp_path / f"{PREFIX}x", tmp_path / "foreign"
    for folder in (living, foreign):
        folder.mkdir()
    (living / OWNER_FILE).write_text(identify_process())
    remove_orphaned_folders()
    assert {living, foreign} == set(tmp_path.iterdir())
    assert lost not in tmp_path.iterdir()


def test_folder_of_an_unseen_process_is_kept_for_a_day(tmp_path: Path) -> None:
    """Its process is in another container, or was killed before it wrote its name."""
    unseen, unnamed = tmp_path / f"{PREFIX}unseen", tmp_path / f"{PREFIX}unnamed"
    for folder in (unseen, unnamed):
        folder.mkdir()
    (unseen / OWNER_FILE).write_text(f"elsewhere{identify_process()}")
    remove_orphaned_folders()
    assert {unseen, unnamed} == set(tmp_path.iterdir())
    for folder in (unseen, unnamed):
        os.utime(folder, (0, 0))
    remove_orphaned_folders()
    assert [] == list(tmp_path.iterdir())
