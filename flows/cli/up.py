"""`relearn up`: all services, kept alive until Ctrl-C."""

import time
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.live import Live

from relearn.flows import system_limits
from relearn.flows.console import make_console
from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import ServiceState, Supervisor, run_services
from relearn.flows.rendering import Table
from relearn.flows.shutdown import stop_on_ctrl_c
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.releases.store import list_released_names

Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
REFRESH_INTERVAL_SECONDS = 1.0


def up(
    *,
    model_name: str | None = None,
    prefect_port: Port = 4200,
    mlflow_port: Port = 5000,
    worker_port: Port = 4201,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
) -> None:
    """Start the Prefect and MLflow servers, the worker and the prediction API; keep them alive until Ctrl-C.

    Parameters
    ----------
    model_name
        Model name to train and serve; by default the only released one, else the one `relearn run` would use.
    prefect_port
        Port of the Prefect server.
    mlflow_port
        Port of the MLflow server.
    worker_port
        Port of the worker's health endpoint.
    """
    stop_on_ctrl_c()
    home, console = Home.from_environment(), make_console()
    system_limits.check_limits()
    model_name = model_name or _pick_model_name(home)
    with run_services(
        home, services(home, model_name, config, prefect_port, mlflow_port, worker_port)
    ) as supervisor:
        _print_states(supervisor, console)


def _pick_model_name(home: Home) -> str:
    """Return the only released model name, else the one `relearn run` would use."""
    model_names = list_released_names(home)
    if len(model_names) == 1:
        return model_names[0]
    from relearn.model.config import TrainConfig
    from relearn.model.data.load import default_model_name

    return default_model_name(TrainConfig(), home)


def _print_states(supervisor: Supervisor, console: Console) -> None:
    """Print the states forever: a live table on a terminal, elsewhere a line per change."""
    if console.is_terminal:
        with Live(
            _build_table(supervisor.poll_states()), console=console, auto_refresh=False
        ) as live_display:
            while True:
                live_display.update(_build_table(supervisor.poll_states()), refresh=True)
                time.sleep(REFRESH_INTERVAL_SECONDS)
    previous_states: list[ServiceState] = []
    while True:
        states = supervisor.poll_states()
        for state in states:
            if state not in previous_states:
                console.print(f"{time.strftime('%H:%M:%S')} {_format_line(state)}", soft_wrap=True)
        previous_states = states
        time.sleep(REFRESH_INTERVAL_SECONDS)


def _format_line(state: ServiceState) -> str:
    restart_note = f", {state.restarts} restarts, last exit: {state.last_exit}" if state.restarts else ""
    return f"{state.service.name} {state.status} {state.service.url}{state.service.ui_path}{restart_note}"


def _build_table(states: list[ServiceState]) -> Table:
    rows = [
        (
            state.service.name,
            state.status,
            f"{state.service.url}{state.service.ui_path}",
            str(state.restarts or ""),
            state.last_exit,
        )
        for state in states
    ]
    return Table(("service", "state", "URL", "restarts", "last exit"), rows)
