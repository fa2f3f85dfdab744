"""The Prefect server that flows report to: a persistent one if it runs, else a temporary one."""

import atexit
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path

import httpx
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)

from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.orchestration.prefect_api import TIMEOUT_SECONDS, PrefectApi
from relearn.flows.process import system_limits
from relearn.flows.terminal.console import print_note
from relearn.model.errors import InfrastructureError, UserInputError
from relearn.model.file_lock import DATABASE_FIX, describe_database_lock, locked
from relearn.model.home import Home
from relearn.model.ports import find_free_port

STARTUP_TIMEOUT_SECONDS = 120.0  # takes 5 to 10 s on two idle cores, 15 s if it creates its database
# It takes 0.2 s; a server that waits for a locked database does not end by itself.
TERMINATION_TIMEOUT_SECONDS = 3.0
STARTUP_RESPONSE_SECONDS = 10.0  # a server that has just started on a busy machine takes more than 2 s

EXCEPTION_LINE = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exception): .")


@contextmanager
def connect_prefect(
    home: Home, require_persistent: bool = False, while_starting: Callable[[], object] = lambda: None
) -> Iterator[str | None]:
    """Connect flows to `PREFECT_API_URL`, else to the server of this machine, else to a temporary one.

    The server of this machine is the one that `relearn up` runs, else the one on Prefect's default port.

    Yields the URL of the UI of a persistent server; None for a temporary one. A temporary server keeps its
    runs in the home, where `prefect server start` shows them later; `while_starting` is called while it
    starts, or before the block. Raises `InfrastructureError` if the
    configured server does not answer, a server asks for a password, or a temporary one does not start;
    `UserInputError` if `require_persistent` and there is no persistent server.
    """
    configured_url = PREFECT_API_URL.value()
    if configured_url and not PrefectApi(configured_url).is_up():
        raise InfrastructureError(f"PREFECT_API_URL: no Prefect server answers at {configured_url}")
    local_stack = LocalStack.read(home)
    default_url = f"http://{PREFECT_SERVER_API_HOST.value()}:{PREFECT_SERVER_API_PORT.value()}"
    local_api_url = (
        f"{local_stack.service_urls.get('prefect', default_url) if local_stack else default_url}/api"
    )
    persistent_url = configured_url or (local_api_url if _is_up(local_api_url, home=home) else None)
    if require_persistent and not persistent_url:
        raise UserInputError(
            "--manual-approval: got no Prefect server whose UI could ask, accepted: one started with "
            "prefect server start"
        )
    if persistent_url:
        while_starting()
    api_url = persistent_url or _start_temporary_server(home, while_starting)
    with ExitStack() as settings:
        with chdir(home.prefect):  # to change one setting, Prefect reads all settings again, from files too
            settings.enter_context(temporary_settings({PREFECT_API_URL: api_url}))
        yield persistent_url and persistent_url.removesuffix("/api")


@contextmanager
def prefect_errors() -> Iterator[None]:
    """Turn errors of Prefect's server in the block, or of the connection, into an `InfrastructureError`."""
    try:
        yield
    except httpx.TransportError as error:
        raise InfrastructureError(
            f"Prefect's server at {PREFECT_API_URL.value()} does not answer: {error}"
        ) from None
    except httpx.HTTPStatusError as error:  # such as 500 when the disk of its database is full
        reason = str(error).splitlines()[0]
        raise InfrastructureError(f"Prefect's server at {PREFECT_API_URL.value()} failed: {reason}") from None


def wait_for_server(url: str) -> None:
    """Wait for the server at `url`; raises `InfrastructureError` after `STARTUP_TIMEOUT_SECONDS`."""
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    while not _is_up(url):
        if time.monotonic() > deadline:
            raise InfrastructureError(f"no Prefect server answers at {url}")
        time.sleep(0.2)


def _start_temporary_server(home: Home, while_starting: Callable[[], object] = lambda: None) -> str:
    """Start a temporary server and return its URL.

    It runs until this process ends: Prefect reports events until then.
    """
    system_limits.check_loopback()
    # Two servers started at once in a new home would both create the tables of the same database.
    lock_file, busy = home.prefect / ".starting.lock", "another process is still starting Prefect's server"
    with locked(lock_file, busy, STARTUP_TIMEOUT_SECONDS, print_note):
        database = home.prefect / "prefect.db"
        if database.exists() and (lock := describe_database_lock(database)):
            raise InfrastructureError(f"{lock}; {DATABASE_FIX}")
        return _start_server(home, while_starting)


def _start_server(home: Home, while_starting: Callable[[], object]) -> str:
    port, log = find_free_port(), home.prefect / "temporary_server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "relearn.flows.orchestration.temporary_server", str(port)],
            cwd=home.prefect,  # has no settings files of the user that Prefect would read
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process
        )
    atexit.register(_terminate, process)
    try:
        while_starting()
    except BaseException:
        _terminate(process)
        raise
    deadline = time.monotonic() + STARTUP_TIMEOUT_SECONDS
    while not _is_up(url := f"http://127.0.0.1:{port}/api", STARTUP_RESPONSE_SECONDS):
        if process.poll() is not None:
            raise InfrastructureError(f"Prefect's server did not start: {_find_reason(log)}; see {log}")
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"Prefect's server did not answer within {STARTUP_TIMEOUT_SECONDS:g} seconds; see {log}"
            )
        time.sleep(0.1)
    return url


def _find_reason(log: Path) -> str:
    """Return why the server did not start: the last line of the last traceback in its log, else the last."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["its log is empty"]
    return next(filter(EXCEPTION_LINE.match, reversed(lines)), lines[-1])


def _terminate(process: subprocess.Popen[bytes]) -> None:
    with suppress(PermissionError):  # of a container that allows no signals: it ends with its standard input
        process.terminate()
    try:
        process.communicate(timeout=TERMINATION_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(PermissionError):
            process.kill()
            process.communicate()


def _is_up(url: str, timeout_seconds: float = TIMEOUT_SECONDS, home: Home | None = None) -> bool:
    """Return whether a Prefect server answers at `url`; raise an error if it asks for a password."""
    prefect_api = PrefectApi(url, timeout_seconds=timeout_seconds, home=home)
    if (state := prefect_api.get_state()) == "unauthorized":
        raise prefect_api.error(state)
    return state == "up"
