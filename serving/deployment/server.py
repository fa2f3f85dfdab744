"""BentoML's server as a process: started, waited for, and always ended."""

import errno
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import relearn
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.home import Home
from relearn.serving.config import (
    API_KEYS,
    MODEL_CORRUPT_CODE,
    MODEL_CORRUPT_MESSAGE,
    PARENT_PID,
    PREDICTION_LOG_DIR,
    RELEASES_DIR,
    WORKER_STATUS_DIR,
    ServeConfig,
)
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.deployment.packaging import build_bentoml_environment, find_bento_folder
from relearn.serving.http.api_keys import ApiKeys, require_keys_if_public

SERVICE_IMPORT_PATH = "relearn.serving.service:Relearn"
WORKER_STATUS_FOLDER = "workers"  # in the folder of a server
STARTUP_TIMEOUT = 60.0  # seconds; about 6 on a quiet machine of 2 cores


class StartupError(InfrastructureError):
    """A server was started, and does not answer."""


@dataclass
class Server:
    """A running server; `folder` holds its log and what BentoML writes while it runs."""

    address: tuple[str, int]
    folder: Path
    process: subprocess.Popen[bytes]
    graceful_timeout_seconds: int
    worker_processes: list[psutil.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    def wait_until_ok(self, path: str, timeout_seconds: float = STARTUP_TIMEOUT) -> None:
        """Return when `path` answers 200; `StartupError` with the end of the log when it does not.

        `IntegrityError` at once where the classifier of the Bento is not what was saved.
        """
        deadline = time.monotonic() + timeout_seconds
        while (response := self._get(path))[0] != 200:
            if f'"code":"{MODEL_CORRUPT_CODE}"'.encode() in response[1]:
                raise CorruptDataError(self._model_error())
            if self.process.poll() is not None:
                raise self.exit_error()
            if time.monotonic() > deadline:
                raise StartupError(
                    f"the server is not up after {timeout_seconds:g} seconds{self._log_tail()}"
                )
            time.sleep(0.05)
        self.worker_processes = psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        """Ask the server to finish what it has accepted, then end whatever of it is left."""
        with suppress(psutil.NoSuchProcess):
            self.worker_processes += psutil.Process(self.process.pid).children(recursive=True)
        try:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self.graceful_timeout_seconds + 5)
        finally:
            self.process.kill()
            self.process.wait()
            for worker in self.worker_processes:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
            psutil.wait_procs(self.worker_processes, timeout=5)

    def exit_error(self) -> StartupError:
        """What to say of a server that ended by itself."""
        return StartupError(f"the server ended with code {self.process.wait()}{self._log_tail()}")

    def _get(self, path: str) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=2)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()

    def _model_error(self) -> str:
        """Why there is nothing to serve, as a worker has logged it."""
        reason = self.log_file.read_text(errors="replace").rpartition(MODEL_CORRUPT_MESSAGE)[2]
        return f"the classifier{MODEL_CORRUPT_MESSAGE}{reason.splitlines()[0]}"

    def _log_tail(self) -> str:
        lines = [line for line in self.log_file.read_text(errors="replace").splitlines() if line.strip()]
        return (
            f"; the end of {self.log_file}: {' | '.join(lines[-5:])}"
            if lines
            else f"; {self.log_file} is empty"
        )


def start_server(
    bento: str | None, config: ServeConfig, home: Home, model_name: str | None = None, api_keys: str = ""
) -> Server:
    """Start `bentoml serve` for the Bento `name:version`, or from source, without a classifier, for None.

    It serves what its Bento carries or, where it is to `follow` a name, what is live under that name, and
    then it records under it what is asked and answered. Clients need one of `keys`, parted by commas, or of
    the file that is set. Returns at once. Raises `ConfigError` for keys that are none, and for none where
    others could ask; `NotFoundError` for a Bento that is not there, `MachineError` for an address that
    cannot be used.
    """
    require_keys_if_public(config, ApiKeys.from_config(config, {API_KEYS: api_keys}))
    target = SERVICE_IMPORT_PATH if bento is None else str(find_bento_folder(bento, home))
    port = _find_usable_port(config.host, config.port)
    folder = _prepare_folder(home, port)
    # Without a limit of its own BentoML waits a day for requests that do not end.
    options = {
        "--host": config.host,
        "--port": port,
        "--timeout-graceful-shutdown": config.graceful_timeout_seconds,
    }
    command = [sys.executable, "-m", "bentoml", "serve", target]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command + [str(argument) for option in options.items() for argument in option],
            cwd=Path(str(relearn.__file__)).parents[1] if bento is None else folder,
            env=_build_environment(config, folder)
            | {API_KEYS: api_keys}
            | (_build_release_environment(home, model_name) if model_name else {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we pass it on as a request to finish
        )
    reachable_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    server = Server((reachable_host, port), folder, process, config.graceful_timeout_seconds)
    RunningServer.from_process(
        process.pid, server.url, config.workers, bento, model_name, folder / WORKER_STATUS_FOLDER
    ).write(folder)
    return server


@contextmanager
def run_server(bento: str | None, config: ServeConfig, home: Home) -> Iterator[str]:
    """A server that answers for the length of a `with` block: gives its URL, leaves no process behind.

    With a Bento it is ready to predict, from source it is alive. The log is kept when it does not come up,
    and when the block fails.
    """
    server = start_server(bento, config, home)
    try:
        server.wait_until_ok("/readyz" if bento else "/livez")
        yield server.url
    finally:
        server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


def _build_environment(config: ServeConfig, folder: Path) -> dict[str, str]:
    overrides = {"services": {"Relearn": {"workers": config.workers}}}
    return (
        build_bentoml_environment()
        | config.to_environment()
        | {
            "BENTOML_HOME": str(folder),
            "BENTOML_CONFIG_OVERRIDES": json.dumps(overrides),
            PARENT_PID: str(os.getpid()),
            WORKER_STATUS_DIR: str(folder / WORKER_STATUS_FOLDER),
        }
    )


def _build_release_environment(home: Home, model_name: str) -> dict[str, str]:
    return {
        RELEASES_DIR: str(home.releases_dir(model_name)),
        PREDICTION_LOG_DIR: str(home.prediction_log_dir(model_name)),
    }


def _prepare_folder(home: Home, port: int) -> Path:
    """A BentoML home for one server: a second one in the same home would wipe the first one's metrics."""
    folder = home.root / "servers" / str(port)
    for required_folder in (folder, home.bentoml / "models"):
        required_folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / WORKER_STATUS_FOLDER, ignore_errors=True)  # what a server that was killed has told
    (folder / "models").unlink(missing_ok=True)
    (folder / "models").symlink_to(home.bentoml / "models")
    return folder


def _find_usable_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InfrastructureError(
                f"cannot listen on {host}, port {port}: {_explain_bind_error(error)}"
            ) from None
        return int(probe.getsockname()[1])


def _explain_bind_error(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "the port is in use, choose another one with --port",
        errno.EACCES: "only an administrator may, choose a port from 1024 up with --port",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }.get(error.errno or 0, error.strerror or str(error))
