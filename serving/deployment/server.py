"""BentoML's server as a subprocess: start, readiness and stop."""

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
from relearn.model.errors import CorruptDataError, InfrastructureError, InvalidModelOutputError
from relearn.model.home import Home
from relearn.model.ports import find_free_port
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
from relearn.serving.deployment.bento_store import find_bento_folder
from relearn.serving.deployment.build_bento import build_bentoml_environment
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.http.api_keys import ApiKeys, require_keys_if_public

SERVICE_IMPORT_PATH = "relearn.serving.service:Relearn"
WORKER_STATUS_FOLDER = "workers"  # in the folder of a server
# Error codes of `/readyz` that waiting does not change.
MODEL_ERROR_CODES = (MODEL_CORRUPT_CODE, InvalidModelOutputError.code)
STARTUP_TIMEOUT = 60.0  # seconds; about 6 on a quiet machine of 2 cores


class StartupError(InfrastructureError):
    """A server started but did not become available."""


@dataclass
class Server:
    """A running server; `folder` holds its log and BentoML's runtime files."""

    address: tuple[str, int]
    folder: Path
    process: subprocess.Popen[bytes]
    graceful_timeout_seconds: int
    worker_processes: list[psutil.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Base URL; IPv6 addresses are in brackets."""
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def log_file(self) -> Path:
        """Combined stdout and stderr of the server."""
        return self.folder / "server.log"

    def wait_until_ok(self, path: str, timeout_seconds: float = STARTUP_TIMEOUT) -> None:
        """Wait until `path` returns 200; otherwise raise `StartupError` with the end of the log.

        Raises `CorruptDataError` immediately if the classifier of the Bento is damaged.
        """
        deadline = time.monotonic() + timeout_seconds
        while (response := self._get(path))[0] != 200:
            if any(f'"code":"{code}"'.encode() in response[1] for code in MODEL_ERROR_CODES):
                raise CorruptDataError(self._describe_model_error(response[1]))
            if self.process.poll() is not None:
                raise self.exit_error()
            if time.monotonic() > deadline:
                raise StartupError(
                    f"the server is not up after {timeout_seconds:g} seconds{self._log_tail()}"
                )
            time.sleep(0.05)
        self.worker_processes = psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        """Stop the server gracefully, then kill the processes that remain."""
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
        """Return the error for a server that exited by itself."""
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

    def _describe_model_error(self, response: bytes) -> str:
        """Say why the classifier cannot be served; the log has more details than `response`."""
        log = self.log_file.read_text(errors="replace")
        _, separator, reason = log.rpartition(MODEL_CORRUPT_MESSAGE)
        message = reason.splitlines()[0] if separator else json.loads(response)["error"]["message"]
        return f"the classifier{MODEL_CORRUPT_MESSAGE}{message}"

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
    """Start `bentoml serve` for the Bento `name:version` or, if None, from source, without a classifier.

    The server serves the classifier of its Bento. With `model_name` it follows the live version of that
    model instead, and logs predictions. Clients need one of `api_keys`, separated by commas, or a key of
    `config.api_keys_file`. Returns immediately. Raises `ConfigError` for invalid keys, and without keys on
    a public host; `NotFoundError` for a missing Bento, `InfrastructureError` for an unusable address.
    """
    require_keys_if_public(config, ApiKeys.from_config(config, {API_KEYS: api_keys}))
    target = SERVICE_IMPORT_PATH if bento is None else str(find_bento_folder(bento, home))
    port = _find_usable_port(config.host, config.port)
    folder = _prepare_folder(home, port)
    # Without this option BentoML waits up to a day for requests in progress.
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
            start_new_session=True,  # Ctrl-C reaches only us; we stop the server gracefully
        )
    reachable_host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    server = Server((reachable_host, port), folder, process, config.graceful_timeout_seconds)
    RunningServer.from_process(
        process.pid, server.url, config.workers, bento, model_name, folder / WORKER_STATUS_FOLDER
    ).write(folder)
    return server


@contextmanager
def run_server(bento: str | None, config: ServeConfig, home: Home) -> Iterator[str]:
    """Start a server of `bento`, or of the source tree if None; yield its URL as soon as it answers.

    A Bento answers at `/readyz`, the source tree, which has no classifier, at `/livez`. All processes of the
    server are stopped at the end. Its log is kept if the start or the block fails.
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
    """Create a BentoML home for one server: servers in the same home would delete each other's metrics."""
    folder = home.root / "servers" / str(port)
    for required_folder in (folder, home.bentoml / "models"):
        required_folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / WORKER_STATUS_FOLDER, ignore_errors=True)  # left by a killed server
    (folder / "models").unlink(missing_ok=True)
    (folder / "models").symlink_to(home.bentoml / "models")
    return folder


def _find_usable_port(host: str, port: int) -> int:
    try:
        if port == 0:
            return find_free_port(host)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise InfrastructureError(
            f"cannot listen on {host}, port {port}: {_explain_bind_error(error)}"
        ) from None
    return port


def _explain_bind_error(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "the port is in use, choose another one with --port",
        errno.EACCES: "ports below 1024 need administrator rights, choose a higher one with --port",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }.get(error.errno or 0, error.strerror or str(error))
