"""Where flows report to: the Prefect server that answers, else a temporary one of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from model.errors import MachineError
from model.home import Home

LOCAL = "http://127.0.0.1:4200/api"


@contextmanager
def prefect(home: Home) -> Iterator[None]:
    """Flows called inside report to `PREFECT_API_URL`, to the server of this machine, or to a temporary one.

    A temporary server takes 5 to 10 seconds to start (15 the first time) and keeps its runs in the home,
    where `prefect server start` shows them later. Raises `MachineError` when the server that was named
    does not answer, or a temporary one does not start.
    """
    home.prefect.mkdir(parents=True, exist_ok=True)
    named = PREFECT_API_URL.value()
    if named and not _answers(named):
        raise MachineError(f"PREFECT_API_URL: no Prefect server answers at {named}")
    url = named or (LOCAL if _answers(LOCAL) else None)
    try:
        with temporary_settings({PREFECT_API_URL: url} if url else {}):
            yield
    except RuntimeError as error:
        if "ephemeral" not in str(error):
            raise
        raise MachineError(f"Prefect's temporary server did not start: {error}") from None


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).json() is True
    except (httpx.HTTPError, ValueError):
        return False
