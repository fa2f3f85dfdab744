"""Where the workers of one server tell each other what they serve."""

import json
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from relearn.serving.settings import BOARD


class Board:
    """A folder with a file a worker; the number of a worker that died is taken by the one after it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def named(cls, environment: MutableMapping[str, str]) -> Self:
        """The one that `environment` names; where it names none, a new one, named for the workers to come."""
        if not environment.get(BOARD):
            environment[BOARD] = tempfile.mkdtemp(prefix="relearn-workers-")
        return cls(Path(environment[BOARD]))

    def write(self, worker: int, told: dict[str, Any]) -> None:
        """Let everybody read what `worker` tells of itself, its process id as `pid`.

        Whole or not at all, but not waiting for the disk: it is of no use after the server.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{worker}.tmp"
        temporary.write_text(json.dumps(told))
        temporary.replace(self.folder / f"{worker}.json")

    def read(self) -> list[dict[str, Any]]:
        """What each worker that is alive has told, by their numbers."""
        told = []
        for file in self.folder.glob("*.json"):
            with suppress(FileNotFoundError):  # it is being cleared
                told.append(json.loads(file.read_bytes()))
        alive = [one for one in told if psutil.pid_exists(one["pid"])]
        return sorted(alive, key=lambda one: int(one["worker"]))
