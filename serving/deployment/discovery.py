"""Discovery of the running servers of a home on this machine: their URLs and served versions."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.model.process_identity import find_process, identify_process, read_pid
from relearn.serving.config import VERSION_HEADER
from relearn.serving.runtime.worker_status import WorkerStatusDir

SERVER_FILE = "server.json"
POLL_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True)
class RunningServer:
    """A server process; `model_name` is the model whose live version it follows, None for one Bento."""

    process: str  # its identity
    started_at: float
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
        """Describe the server that runs as process `pid`."""
        return cls(
            identify_process(pid), time.time(), url, workers, bento, model_name, str(worker_status_dir)
        )

    def write(self, folder: Path) -> None:
        """Write `server.json` to the server's own `folder`, for `find_running_servers`."""
        write_bytes_atomically(folder / SERVER_FILE, json.dumps(asdict(self)).encode())

    def is_running(self) -> bool:
        """Return whether the server's process runs on this machine."""
        return find_process(self.process) == "alive"

    @property
    def pid(self) -> str:
        return read_pid(self.process)

    def read_worker_versions(self) -> dict[int, str | None]:
        """Return the version that each worker serves, by worker number, from the status files."""
        return {
            status["worker"]: status["version"]
            for status in WorkerStatusDir(Path(self.worker_status_dir)).read()
        }

    def get_served_version(self) -> str | None:
        """Return the served version, from `/readyz`, which needs no API key; None without an answer."""

        try:
            response = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
        except httpx.HTTPError:
            return None
        version: str | None = response.headers.get(VERSION_HEADER)
        return version

    def wait_for_version(self, version: str, timeout_seconds: float) -> bool:
        """Wait until all workers and `/readyz` report `version`; return False after the timeout."""
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
    """Yield the servers of `home` that are running."""
    for file in sorted((home.root / "servers").glob(f"*/{SERVER_FILE}")):
        try:
            server = RunningServer(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            continue  # the server has just stopped, or another program version wrote the file
        # In a copy of a home the file is about a server of the original.
        is_of_home = Path(server.worker_status_dir).resolve().is_relative_to(file.parent.resolve())
        if is_of_home and server.is_running():
            yield server
