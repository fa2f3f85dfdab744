"""Where the workers of one server tell each other what they serve."""

import json
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from relearn.serving.config import WORKER_STATUS_DIR


class WorkerStatusDir:
    """A folder with a file a worker; the number of a worker that died is taken by the one after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The one that `environment` names; where it names none, a new one, named for the workers to come."""
        if not environment.get(WORKER_STATUS_DIR):
            environment[WORKER_STATUS_DIR] = tempfile.mkdtemp(prefix="relearn-workers-")
        return cls(Path(environment[WORKER_STATUS_DIR]))

    def write(self, worker_index: int, status: dict[str, Any]) -> None:
        """Let everybody read what `worker` tells of itself, its process id as `pid`.

        Whole or not at all, but not waiting for the disk: it is of no use after the server.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary_file = self.folder / f"{worker_index}.tmp"
        temporary_file.write_text(json.dumps(status))
        temporary_file.replace(self.folder / f"{worker_index}.json")

    def read(self) -> list[dict[str, Any]]:
        """What each worker that is alive has told, by their numbers."""
        statuses = []
        for file in self.folder.glob("*.json"):
            with suppress(FileNotFoundError):  # it is being cleared
                statuses.append(json.loads(file.read_bytes()))
        alive_statuses = [status for status in statuses if psutil.pid_exists(status["pid"])]
        return sorted(alive_statuses, key=lambda one: int(one["worker"]))
