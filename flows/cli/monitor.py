"""`relearn monitor`: what was answered lately, and whether it is still like what was judged by."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from relearn.flows.cli.orchestrated import orchestrated
from relearn.flows.settings import MonitorConfig
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.watched import Watched


def monitor(
    *,
    name: str | None = None,
    config: Annotated[MonitorConfig, Parameter(name="*")] = MonitorConfig(),
) -> None:
    """Look at the recorded answers: how many, how sure, how right, and whether they have drifted.

    Drift, and an accuracy below its floor, ask for a retraining, once in a while.

    Parameters
    ----------
    name
        Under which name; not needed while only one is released.
    """
    from relearn.serving.releases import released

    home = Home.from_environment()
    name, _ = released(home, name)
    with orchestrated(home) as page:
        from relearn.flows.monitor import monitor as monitor_flow

        watched = monitor_flow(name, config, ask=page is not None)
    console = Console(highlight=False)
    show(console, watched, home)
    if watched.reasons and page is None:
        console.print("no retraining was asked for, since nobody would hear it: relearn up runs what listens")


def show(console: Console, watched: "Watched", home: Home) -> None:
    """Print what was seen, the outcome last but for where there is more."""
    from relearn.flows.watch_report import lines, measures

    if watched.drift.measures:
        console.print(measures(watched))
    if watched.now:
        console.print(
            f"version {watched.version} is {watched.now.confidence:.1%} sure on average; "
            f"{watched.now.low_confidence:.1%} of its answers are below "
            f"{watched.config.low_confidence:.0%}"
        )
    for line in lines(watched):
        console.print(escape(line))
    colour = "red" if watched.alarms else "yellow" if not watched.drift.measures else "green"
    console.print(f"{escape(watched.name)}: [{colour}]{escape(watched.outcome)}[/], {watched.window}")
    console.print(f"more in {home.watch(watched.name)}", soft_wrap=True)
