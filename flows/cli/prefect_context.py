"""Connection of a command to a Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager

from relearn.flows import environment
from relearn.flows.config import PromotionConfig
from relearn.model.home import Home


@contextmanager
def prefect_context(home: Home, gate: PromotionConfig | None = None) -> Iterator[str | None]:
    """Connect the flows in the block to a persistent or a temporary Prefect server.

    Yields the URL of its UI, None for a temporary server. Raises `UserInputError` if `gate` requires an
    approval, which is given in the UI, and the server is temporary.
    """
    environment.load_prefect(home)
    from relearn.flows.orchestration.connect import connect_prefect

    with connect_prefect(home, require_persistent=bool(gate and gate.manual_approval)) as ui_url:
        yield ui_url
