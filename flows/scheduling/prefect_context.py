"""Connection of a command to a Prefect server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from relearn.flows.config import PromotionConfig
from relearn.flows.process import environment
from relearn.flows.terminal.console import make_console, print_warning, spinner
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home


@contextmanager
def prefect_context(
    home: Home, gate: PromotionConfig | None = None, while_starting: Callable[[], object] = lambda: None
) -> Iterator[str | None]:
    """Connect the flows in the block to a persistent or a temporary Prefect server, and reconcile its runs.

    A temporary server takes some seconds to start; `while_starting` is called in the meantime.
    Yields the URL of its UI, None for a temporary server. Raises `UserInputError` if `gate` requires an
    approval, which is given in the UI, and the server is temporary.
    """
    with ExitStack() as stack:
        with spinner("Connecting to Prefect"):
            environment.load_prefect(home)
            from prefect.settings import PREFECT_API_URL

            from relearn.flows.orchestration.connect import connect_prefect, prefect_errors
            from relearn.flows.orchestration.prefect_api import PrefectApi
            from relearn.flows.scheduling.reconcile import reconcile

            require_persistent = bool(gate and gate.manual_approval)
            ui_url = stack.enter_context(connect_prefect(home, require_persistent, while_starting))
        stack.enter_context(prefect_errors())
        try:
            for message in reconcile(home, PrefectApi(PREFECT_API_URL.value())):
                make_console().print(message, soft_wrap=True)
        except InfrastructureError as error:  # of MLflow, which not every flow needs
            print_warning(f"interrupted runs stay open: {error}")
        yield ui_url
