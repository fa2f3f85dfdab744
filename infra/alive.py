"""`relearn up` in a home of its own, for scripts that play with it: as a user would, by the command line."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

RELEARN = str(Path(sys.executable).parent / "relearn")
FLAGS = {"prefect": "--prefect-port", "mlflow": "--mlflow-port", "worker": "--worker-port", "api": "--port"}
OURS = ("RELEARN_", "PREFECT_", "MLFLOW_", "BENTOML_")
PATIENCE = 240.0  # seconds that anything is waited for


@dataclass(frozen=True)
class Alive:
    """Everything up for one home; `ports` by part."""

    folder: Path
    ports: dict[str, int]
    environment: dict[str, str]

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    def relearn(self, *words: str) -> str:
        """Run a verb; returns what it said, ends the script where it fails."""
        command = [RELEARN, *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"relearn {' '.join(words)}: {done.stderr}")
        return done.stdout


@contextmanager
def everything_up(folder: Path, *words: str) -> Iterator[Alive]:
    """`relearn up WORDS` on free ports, with its home in `folder`, and no other service of this machine."""
    ports = dict(zip(FLAGS, free_ports(len(FLAGS)), strict=True))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    alive = Alive(folder, ports, kept | {"RELEARN_HOME": str(folder / ".relearn"), "COLUMNS": "200"})
    flags = [word for part, flag in FLAGS.items() for word in (flag, str(ports[part]))]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen([RELEARN, "up", *words, *flags], env=alive.environment, stdout=log)
    try:
        wait_for(lambda: httpx.get(f"{alive.url('runner')}/health", timeout=2).is_success, "the runner")
        yield alive
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(100)


def wait_for(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Return once it is true; that a server is away is as good as false."""
    deadline = time.monotonic() + patience
    while True:
        with suppress(httpx.HTTPError):
            if true():
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {patience:g} s in vain for {what}")
        time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    """So many different ones that nobody listens on."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
