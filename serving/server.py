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
from relearn.model.errors import IntegrityError, MachineError
from relearn.model.home import Home
from relearn.serving.keys import Keys, check_reach
from relearn.serving.packaging import bento_folder, server_environment
from relearn.serving.servers import Known
from relearn.serving.settings import API_KEYS, BOARD, OWNER, RECORDS, RELEASES, UNSERVED, UNSOUND, ServeConfig

SOURCE = "relearn.serving.service:Relearn"
BOARDS = "workers"  # in the folder of a server
STARTUP = 60.0  # seconds; about 6 on a quiet machine of 2 cores


class StartupError(MachineError):
    """A server was started, and does not answer."""


@dataclass
class Server:
    """A running server; `folder` holds its log and what BentoML writes while it runs."""

    address: tuple[str, int]
    folder: Path
    process: subprocess.Popen[bytes]
    grace: int
    workers: list[psutil.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def wait_for(self, path: str, seconds: float = STARTUP) -> None:
        """Return when `path` answers 200; `StartupError` with the end of the log when it does not.

        `IntegrityError` at once where the classifier of the Bento is not what was saved.
        """
        deadline = time.monotonic() + seconds
        while (answer := self._ask(path))[0] != 200:
            if f'"code":"{UNSOUND}"'.encode() in answer[1]:
                raise IntegrityError(self._complaint())
            if self.process.poll() is not None:
                raise self.gone()
            if time.monotonic() > deadline:
                raise StartupError(f"the server is not up after {seconds:g} seconds{self._last_words()}")
            time.sleep(0.05)
        self.workers = psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> None:
        """Ask the server to finish what it has accepted, then end whatever of it is left."""
        with suppress(psutil.NoSuchProcess):
            self.workers += psutil.Process(self.process.pid).children(recursive=True)
        try:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(self.grace + 5)
        finally:
            self.process.kill()
            self.process.wait()
            for worker in self.workers:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
            psutil.wait_procs(self.workers, timeout=5)

    def gone(self) -> StartupError:
        """What to say of a server that ended by itself."""
        return StartupError(f"the server ended with code {self.process.wait()}{self._last_words()}")

    def _ask(self, path: str) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()

    def _complaint(self) -> str:
        """Why there is nothing to serve, as a worker has logged it."""
        reason = self.log.read_text(errors="replace").rpartition(UNSERVED)[2]
        return f"the classifier{UNSERVED}{reason.splitlines()[0]}"

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"; the end of {self.log}: {' | '.join(lines[-5:])}" if lines else f"; {self.log} is empty"


def start(
    bento: str | None, config: ServeConfig, home: Home, follow: str | None = None, keys: str = ""
) -> Server:
    """Start `bentoml serve` for the Bento `name:version`, or from source, without a classifier, for None.

    It serves what its Bento carries or, where it is to `follow` a name, what is live under that name, and
    then it records under it what is asked and answered. Clients need one of `keys`, parted by commas, or of
    the file that is set. Returns at once. Raises `ConfigError` for keys that are none, and for none where
    others could ask; `NotFoundError` for a Bento that is not there, `MachineError` for an address that
    cannot be used.
    """
    check_reach(config, Keys.of(config, {API_KEYS: keys}))
    target = SOURCE if bento is None else str(bento_folder(bento, home))
    port = _usable_port(config.host, config.port)
    folder = _folder(home, port)
    # Without a limit of its own BentoML waits a day for requests that do not end.
    options = {"--host": config.host, "--port": port, "--timeout-graceful-shutdown": config.grace}
    command = [sys.executable, "-m", "bentoml", "serve", target]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command + [str(part) for option in options.items() for part in option],
            cwd=Path(str(relearn.__file__)).parents[1] if bento is None else folder,
            env=_environment(config, folder) | {API_KEYS: keys} | (_followed(home, follow) if follow else {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: we pass it on as a request to finish
        )
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104
    server = Server((reached, port), folder, process, config.grace)
    Known.of(process.pid, server.url, config.workers, bento, follow, folder / BOARDS).write(folder)
    return server


@contextmanager
def running(bento: str | None, config: ServeConfig, home: Home) -> Iterator[str]:
    """A server that answers for the length of a `with` block: gives its URL, leaves no process behind.

    With a Bento it is ready to predict, from source it is alive. The log is kept when it does not come up,
    and when the block fails.
    """
    server = start(bento, config, home)
    try:
        server.wait_for("/readyz" if bento else "/livez")
        yield server.url
    finally:
        server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


def _environment(config: ServeConfig, folder: Path) -> dict[str, str]:
    overrides = {"services": {"Relearn": {"workers": config.workers}}}
    return (
        server_environment()
        | config.to_environment()
        | {
            "BENTOML_HOME": str(folder),
            "BENTOML_CONFIG_OVERRIDES": json.dumps(overrides),
            OWNER: str(os.getpid()),
            BOARD: str(folder / BOARDS),
        }
    )


def _followed(home: Home, name: str) -> dict[str, str]:
    return {RELEASES: str(home.releases(name)), RECORDS: str(home.records(name))}


def _folder(home: Home, port: int) -> Path:
    """A BentoML home for one server: a second one in the same home would wipe the first one's metrics."""
    folder = home.root / "servers" / str(port)
    for needed in (folder, home.bentoml / "models"):
        needed.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / BOARDS, ignore_errors=True)  # what a server that was killed has told
    (folder / "models").unlink(missing_ok=True)
    (folder / "models").symlink_to(home.bentoml / "models")
    return folder


def _usable_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise MachineError(f"cannot listen on {host}, port {port}: {_reason(error)}") from None
        return int(probe.getsockname()[1])


def _reason(error: OSError) -> str:
    return {
        errno.EADDRINUSE: "the port is in use, choose another one with --port",
        errno.EACCES: "only an administrator may, choose a port from 1024 up with --port",
        errno.EADDRNOTAVAIL: "this machine has no such address",
    }.get(error.errno or 0, error.strerror or str(error))
