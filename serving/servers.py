"""The servers of a home that run on this machine: where each answers, and what its workers serve."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from relearn.model import atomic
from relearn.model.home import Home
from relearn.serving.board import Board
from relearn.serving.settings import VERSION

FILE = "server.json"
STEP = 0.1  # seconds between two questions


@dataclass(frozen=True)
class Known:
    """A server, by the process that runs it; `follows` is the name whose live version it serves."""

    pid: int
    started: float
    url: str
    workers: int
    bento: str | None
    follows: str | None
    board: str

    @classmethod
    def of(
        cls, pid: int, url: str, workers: int, bento: str | None, follows: str | None, board: Path
    ) -> "Known":
        return cls(pid, psutil.Process(pid).create_time(), url, workers, bento, follows, str(board))

    def write(self, folder: Path) -> None:
        """Let `servers` find it; the folder is that of this server alone."""
        atomic.write_bytes(folder / FILE, json.dumps(asdict(self)).encode())

    def runs(self) -> bool:
        """Whether its process is there, and is not another one that was given the same number."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 5  # clocks are put right
        except psutil.NoSuchProcess:
            return False

    def versions(self) -> dict[int, str | None]:
        """What each worker tells that it serves; asked without HTTP, for which one may need a key."""
        return {one["worker"]: one["version"] for one in Board(Path(self.board)).read()}

    def answers(self) -> str | None:
        """The version that has just answered over HTTP; of all routes, this one needs no key."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
        except httpx.HTTPError:
            return None
        version: str | None = answer.headers.get(VERSION)
        return version

    def took(self, version: str, within: float) -> bool:
        """Whether within so many seconds all workers tell that they serve `version`, and it answers."""
        deadline = time.monotonic() + within
        while True:
            versions = self.versions()
            told = len(versions) == self.workers and set(versions.values()) == {version}
            if told and self.answers() == version:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(STEP)


def servers(home: Home) -> Iterator[Known]:
    """Those that run now."""
    for file in sorted((home.root / "servers").glob(f"*/{FILE}")):
        try:
            known = Known(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue  # one that ends just now, or was written by another version of this program
        if known.runs():
            yield known
