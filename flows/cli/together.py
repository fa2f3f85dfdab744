"""`relearn up`: everything at once, until Ctrl-C."""

import time
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.live import Live

from relearn.flows.parts import parts
from relearn.flows.rendering import Table
from relearn.flows.up import State, Supervisor
from relearn.flows.up import up as kept_up
from relearn.model.home import Home
from relearn.serving.releases import names
from relearn.serving.settings import ServeConfig

Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
EVERY = 1.0  # seconds between two looks


def up(
    *,
    name: str | None = None,
    flows_port: Port = 4200,
    runs_port: Port = 5000,
    runner_port: Port = 4201,
    config: Annotated[ServeConfig, Parameter(name="*")] = ServeConfig(),
) -> None:
    """Start Prefect's and MLflow's pages and the prediction API, and keep them alive until Ctrl-C.

    Parameters
    ----------
    name
        What to train and serve: by default the only name that is released, else the one that `relearn run`
        would take.
    flows_port
        Port of Prefect's page.
    runs_port
        Port of MLflow's page.
    runner_port
        Port where the runner tells whether it is well.
    """
    home, console = Home.from_environment(), Console(highlight=False)
    name = name or _usual(home)
    with kept_up(home, parts(home, name, config, flows_port, runs_port, runner_port)) as supervisor:
        _show(supervisor, console)


def _usual(home: Home) -> str:
    """The only name that is released, else the one that `relearn run` would take."""
    released = names(home)
    if len(released) == 1:
        return released[0]
    from relearn.model.config import TrainConfig
    from relearn.model.datasets import name_of

    return name_of(TrainConfig(), home)


def _show(supervisor: Supervisor, console: Console) -> None:
    """A table that lives on a terminal; elsewhere a line whenever something has changed."""
    if console.is_terminal:
        with Live(_table(supervisor.states()), console=console, auto_refresh=False) as live:
            while True:
                live.update(_table(supervisor.states()), refresh=True)
                time.sleep(EVERY)
    before: list[State] = []
    while True:
        now = supervisor.states()
        for state in now:
            if state not in before:
                console.print(f"{time.strftime('%H:%M:%S')} {_line(state)}", soft_wrap=True)
        before = now
        time.sleep(EVERY)


def _line(state: State) -> str:
    died = f", died {state.died} times, last: {state.reason}" if state.died else ""
    return f"{state.part.name} {state.word} {state.part.url}{state.part.page}{died}"


def _table(states: list[State]) -> Table:
    rows = [
        (one.part.name, one.word, f"{one.part.url}{one.part.page}", str(one.died or ""), one.reason)
        for one in states
    ]
    return Table(("part", "is", "where", "died", "last of"), rows)
