"""A temporary `relearn up` for scripts, controlled through the command line as a user would."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from relearn.model.ports import find_free_port

RELEARN = str(Path(sys.executable).parent / "relearn")
PORT_FLAGS = {
    "prefect": "--prefect-port",
    "mlflow": "--mlflow-port",
    "worker": "--worker-port",
    "api": "--port",
}
ENVIRONMENT_PREFIXES = ("RELEARN_", "PREFECT_", "MLFLOW_", "BENTOML_")
WAIT_TIMEOUT = 240.0  # seconds


@dataclass(frozen=True)
class TemporaryStack:
    """A running `relearn up` with its home in `folder`; `ports` by service."""

    folder: Path
    ports: dict[str, int]
    environment: dict[str, str]

    def url(self, service: str) -> str:
        """Return the base URL of a service."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def relearn(self, *arguments: str) -> str:
        """Run a subcommand and return its output; exit the script if it fails."""
        command = [RELEARN, *arguments]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"relearn {' '.join(arguments)}: {result.stderr}")
        return result.stdout


@contextmanager
def run_temporary_stack(folder: Path, *arguments: str) -> Iterator[TemporaryStack]:
    """Run `relearn up ARGUMENTS` on free ports with its home in `folder`, separate from other services."""
    ports = {flag: find_free_port() for flag in PORT_FLAGS}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIXES)}
    environment = inherited | {"RELEARN_HOME": str(folder / ".relearn"), "COLUMNS": "200"}
    stack = TemporaryStack(folder, ports, environment)
    flags = [word for service, flag in PORT_FLAGS.items() for word in (flag, str(ports[service]))]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen([RELEARN, "up", *arguments, *flags], env=environment, stdout=log)
    try:
        wait_for(lambda: httpx.get(f"{stack.url('worker')}/health", timeout=2).is_success, "the worker")
        yield stack
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(100)


def wait_for(condition: Callable[[], bool], description: str, timeout_seconds: float = WAIT_TIMEOUT) -> None:
    """Wait until `condition` holds; exit the script after the timeout.

    An unreachable server counts as false.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        with suppress(httpx.HTTPError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"timeout: waited {timeout_seconds:g} s for {description}")
        time.sleep(0.2)
