"""`relearn up`: everything at once, until Ctrl-C."""

import time
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.live import Live

from relearn.flows.console import make_console
from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import ServiceState, Supervisor
from relearn.flows.ops.supervisor import run_services as kept_up
from relearn.flows.rendering import Table
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.releases.store import list_released_names

Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
REFRESH_INTERVAL_SECONDS = 1.0  # seconds between two looks


def up(
    *,
    model_name: str | None = None,
    prefect_port: Port = 4200,
    mlflow_port: Port = 5000,
    worker_port: Port = 4201,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
) -> None:
    """Start Prefect's and MLflow's pages and the prediction API, and keep them alive until Ctrl-C.

    Parameters
    ----------
    model_name
        What to train and serve: by default the only name that is released, else the one that `relearn run`
        would take.
    prefect_port
        Port of Prefect's page.
    mlflow_port
        Port of MLflow's page.
    worker_port
        Port where the runner tells whether it is well.
    """
    home, console = Home.from_environment(), make_console()
    model_name = model_name or _pick_model_name(home)
    with kept_up(
        home, services(home, model_name, config, prefect_port, mlflow_port, worker_port)
    ) as supervisor:
        _print_states(supervisor, console)


def _pick_model_name(home: Home) -> str:
    """The only name that is released, else the one that `relearn run` would take."""
    model_names = list_released_names(home)
    if len(model_names) == 1:
        return model_names[0]
    from relearn.model.config import TrainConfig
    from relearn.model.data.load import default_model_name

    return default_model_name(TrainConfig(), home)


def _print_states(supervisor: Supervisor, console: Console) -> None:
    """A table that lives on a terminal; elsewhere a line whenever something has changed."""
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
    restart_note = f", died {state.restarts} times, last: {state.last_exit}" if state.restarts else ""
    return f"{state.service.name} {state.status} {state.service.url}{state.service.ui_path}{restart_note}"


def _build_table(states: list[ServiceState]) -> Table:
    rows = [
        (
            one.service.name,
            one.status,
            f"{one.service.url}{one.service.ui_path}",
            str(one.restarts or ""),
            one.last_exit,
        )
        for one in states
    ]
    return Table(("part", "is", "where", "died", "last of"), rows)
