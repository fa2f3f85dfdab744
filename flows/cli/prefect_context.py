"""What every verb does that runs a flow: find or start the Prefect server that it reports to."""

from collections.abc import Iterator
from contextlib import contextmanager

from relearn.flows import environment
from relearn.flows.config import PromotionConfig
from relearn.model.home import Home


@contextmanager
def prefect_context(home: Home, gate: PromotionConfig | None = None) -> Iterator[str | None]:
    """Flows called inside report to a Prefect server; yields its page, None for a temporary one.

    Raises `InputError` where `gate` asks for an approval that a temporary server has no page for.
    """
    environment.load_prefect(home)
    from relearn.flows.orchestration.connect import connect_prefect

    with connect_prefect(home, require_persistent=bool(gate and gate.manual_approval)) as ui_url:
        yield ui_url
