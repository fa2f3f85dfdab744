"""The servers of a home that run on this machine: where each answers, and what its workers serve."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.serving.config import VERSION_HEADER
from relearn.serving.runtime.worker_status import WorkerStatusDir

SERVER_FILE = "server.json"
POLL_INTERVAL_SECONDS = 0.1  # seconds between two questions


@dataclass(frozen=True)
class RunningServer:
    """A server, by the process that runs it; `follows` is the name whose live version it serves."""

    pid: int
    create_time: float
    url: str
    worker_count: int
    bento: str | None
    model_name: str | None
    worker_status_dir: str

    @classmethod
    def from_process(
        cls,
        pid: int,
        url: str,
        workers: int,
        bento: str | None,
        model_name: str | None,
        worker_status_dir: Path,
    ) -> "RunningServer":
        return cls(
            pid, psutil.Process(pid).create_time(), url, workers, bento, model_name, str(worker_status_dir)
        )

    def write(self, folder: Path) -> None:
        """Let `servers` find it; the folder is that of this server alone."""
        write_bytes_atomically(folder / SERVER_FILE, json.dumps(asdict(self)).encode())

    def is_running(self) -> bool:
        """Whether its process is there, and is not another one that was given the same number."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.create_time) < 5  # clocks are put right
        except psutil.NoSuchProcess:
            return False

    def read_worker_versions(self) -> dict[int, str | None]:
        """What each worker tells that it serves; asked without HTTP, for which one may need a key."""
        return {
            status["worker"]: status["version"]
            for status in WorkerStatusDir(Path(self.worker_status_dir)).read()
        }

    def get_served_version(self) -> str | None:
        """The version that has just answered over HTTP; of all routes, this one needs no key."""
        try:
            response = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
        except httpx.HTTPError:
            return None
        version: str | None = response.headers.get(VERSION_HEADER)
        return version

    def wait_for_version(self, version: str, timeout_seconds: float) -> bool:
        """Whether within so many seconds all workers tell that they serve `version`, and it answers."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            versions = self.read_worker_versions()
            is_on_all_workers = len(versions) == self.worker_count and set(versions.values()) == {version}
            if is_on_all_workers and self.get_served_version() == version:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_INTERVAL_SECONDS)


def find_running_servers(home: Home) -> Iterator[RunningServer]:
    """Those that run now."""
    for file in sorted((home.root / "servers").glob(f"*/{SERVER_FILE}")):
        try:
            server = RunningServer(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue  # one that ends just now, or was written by another version of this program
        if server.is_running():
            yield server
