"""Promises of the board on which workers tell what they serve."""

import os
import subprocess
import sys
from pathlib import Path

from relearn.serving.runtime.worker_status import WorkerStatusDir


def test_every_worker_reads_what_all_have_told(tmp_path: Path):
    """In the order of their numbers, the last word of each."""
    board = WorkerStatusDir(tmp_path / "board")
    assert [] == board.read()
    for worker, version in ((10, "1"), (2, "1"), (2, "2")):
        board.write(worker, {"worker": worker, "pid": os.getpid(), "version": version})

    assert [(2, "2"), (10, "1")] == [
        (one["worker"], one["version"]) for one in WorkerStatusDir(board.folder).read()
    ]


def test_the_dead_serve_nothing(tmp_path: Path):
    """What a worker has told ends with its process."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    board = WorkerStatusDir(tmp_path)
    board.write(1, {"worker": 1, "pid": gone.pid})
    board.write(2, {"worker": 2, "pid": os.getpid()})
    assert [2] == [one["worker"] for one in board.read()]


def test_a_server_names_its_board_for_its_workers(tmp_path: Path):
    """The one it was given, else a new one that its environment then names."""
    given: dict[str, str] = {"RELEARN_WORKER_STATUS_DIR": str(tmp_path)}
    assert tmp_path == WorkerStatusDir.from_environment(given).folder

    empty: dict[str, str] = {}
    made = WorkerStatusDir.from_environment(empty)
    assert made.folder == WorkerStatusDir.from_environment(empty).folder
    assert made.folder.is_dir()
    made.folder.rmdir()
