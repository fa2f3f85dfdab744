"""Where flows report to: the Prefect server that answers, else a temporary one of their own."""

import atexit
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager

import httpx
from filelock import FileLock
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)

from relearn.flows import environment
from relearn.flows.standing import Standing
from relearn.model.errors import InputError, MachineError
from relearn.model.home import Home

STARTUP = 120.0  # seconds; 5 to 10 on two quiet cores, 15 with a database to make


@contextmanager
def prefect(home: Home, lasting_only: bool = False) -> Iterator[str | None]:
    """Flows called inside report to `PREFECT_API_URL`, to the server of this machine, or to a temporary one.

    That of this machine is the one of `relearn up`, if it runs, else the one at Prefect's own port.

    Yields where the first two show them; None for a temporary server, which keeps its runs in the home,
    where `prefect server start` shows them later. Raises `MachineError` when the server that was named does
    not answer, or a temporary one does not start; `InputError` where it would have to be one that lasts.
    """
    named = PREFECT_API_URL.value()
    if named and not _answers(named):
        raise MachineError(f"PREFECT_API_URL: no Prefect server answers at {named}")
    standing = Standing.read(home)
    page = f"http://{PREFECT_SERVER_API_HOST.value()}:{PREFECT_SERVER_API_PORT.value()}"
    local = f"{standing.parts.get('flows', page) if standing else page}/api"
    lasting = named or (local if _answers(local) else None)
    if lasting_only and not lasting:
        raise InputError(
            "--approve-by-hand: got no Prefect server whose page could ask, accepted: one started with "
            "prefect server start"
        )
    api_url = lasting or _temporary_server(home)
    with ExitStack() as settings:
        with chdir(home.prefect):  # to change one setting Prefect reads all of them again, files included
            settings.enter_context(temporary_settings({PREFECT_API_URL: api_url}))
        yield lasting and lasting.removesuffix("/api")


@contextmanager
def reported() -> Iterator[None]:
    """What Prefect's server does not answer inside is a `MachineError`."""
    try:
        yield
    except httpx.TransportError as error:
        raise MachineError(f"Prefect's server at {PREFECT_API_URL.value()} is away: {error}") from None


def wait_for(url: str) -> None:
    """Return once the server at `url` answers; raises `MachineError` where it takes longer than to start."""
    deadline = time.monotonic() + STARTUP
    while not _answers(url):
        if time.monotonic() > deadline:
            raise MachineError(f"no Prefect server answers at {url}")
        time.sleep(0.2)


def _temporary_server(home: Home) -> str:
    """Start one, and end it when this process ends: only then has Prefect told it everything."""
    environment.check_loopback()
    # Of two that are started at once in a new home each would make the tables of the same database.
    with FileLock(home.prefect / ".starting.lock", timeout=STARTUP):
        return _start_server(home)


def _start_server(home: Home) -> str:
    port, log = _free_port(), home.prefect / "temporary_server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "relearn.flows.temporary_server", str(port)],
            cwd=home.prefect,  # where no files of the user's are that Prefect would read
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us
        )
    atexit.register(_end, process)
    deadline = time.monotonic() + STARTUP
    while not _answers(url := f"http://127.0.0.1:{port}/api"):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise MachineError(f"Prefect's server did not start; the last it said, in {log}: {said[-1]}")
        time.sleep(0.1)
    return url


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).json() is True
    except (httpx.HTTPError, ValueError):
        return False
