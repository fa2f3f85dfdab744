"""The status files of the workers of a server."""

import os
import subprocess
import sys
from pathlib import Path

from relearn.serving.runtime.worker_status import WorkerStatusDir


def test_every_worker_reads_all_statuses(tmp_path: Path):
    """The latest status of each worker is read, by worker number."""
    status_dir = WorkerStatusDir(tmp_path / "workers")
    assert [] == status_dir.read()
    for worker, version in ((10, "1"), (2, "1"), (2, "2")):
        status_dir.write(worker, {"worker": worker, "pid": os.getpid(), "version": version})

    assert [(2, "2"), (10, "1")] == [
        (status["worker"], status["version"]) for status in WorkerStatusDir(status_dir.folder).read()
    ]


def test_status_of_ended_process_is_ignored(tmp_path: Path):
    """The status of a worker counts only while its process is alive."""
    ended_process = subprocess.Popen([sys.executable, "-c", ""])
    ended_process.wait()
    status_dir = WorkerStatusDir(tmp_path)
    status_dir.write(1, {"worker": 1, "pid": ended_process.pid})
    status_dir.write(2, {"worker": 2, "pid": os.getpid()})
    assert [2] == [status["worker"] for status in status_dir.read()]


def test_server_creates_the_folder_for_its_workers(tmp_path: Path):
    """The folder named in the environment is used; otherwise a new one is created and named there."""
    environment: dict[str, str] = {"RELEARN_WORKER_STATUS_DIR": str(tmp_path)}
    assert tmp_path == WorkerStatusDir.from_environment(environment).folder

    empty_environment: dict[str, str] = {}
    created = WorkerStatusDir.from_environment(empty_environment)
    assert created.folder == WorkerStatusDir.from_environment(empty_environment).folder
    assert created.folder.is_dir()
    created.folder.rmdir()
