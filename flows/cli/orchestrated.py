"""What every verb does that runs a flow: find or start the Prefect server that it reports to."""

from collections.abc import Iterator
from contextlib import contextmanager

from relearn.flows import environment
from relearn.flows.settings import ReleaseConfig
from relearn.model.home import Home


@contextmanager
def orchestrated(home: Home, gate: ReleaseConfig | None = None) -> Iterator[str | None]:
    """Flows called inside report to a Prefect server; yields its page, None for a temporary one.

    Raises `InputError` where `gate` asks for an approval that a temporary server has no page for.
    """
    environment.load_prefect(home)
    from relearn.flows.orchestration import prefect

    with prefect(home, lasting_only=bool(gate and gate.approve_by_hand)) as page:
        yield page
