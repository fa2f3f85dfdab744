"""The status of each worker, shared by the workers of one server."""

import json
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from relearn.serving.config import WORKER_STATUS_DIR


class WorkerStatusDir:
    """A folder with a status file per worker; a restarted worker takes over the number of its predecessor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Open the folder named in `environment`, or create one and name it there, for the workers."""
        if not environment.get(WORKER_STATUS_DIR):
            environment[WORKER_STATUS_DIR] = tempfile.mkdtemp(prefix="relearn-workers-")
        return cls(Path(environment[WORKER_STATUS_DIR]))

    def write(self, worker_index: int, status: dict[str, Any]) -> None:
        """Publish the status of a worker; `status` has its process id as `pid`.

        The write is atomic but not synced to disk: the file is useless after the server stops.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary_file = self.folder / f"{worker_index}.tmp"
        temporary_file.write_text(json.dumps(status))
        temporary_file.replace(self.folder / f"{worker_index}.json")

    def read(self) -> list[dict[str, Any]]:
        """Return the statuses of all live workers, by worker number."""
        statuses = []
        for file in self.folder.glob("*.json"):
            with suppress(FileNotFoundError):  # the folder is being deleted
                statuses.append(json.loads(file.read_bytes()))
        alive_statuses = [status for status in statuses if psutil.pid_exists(status["pid"])]
        return sorted(alive_statuses, key=lambda status: int(status["worker"]))
