"""`relearn schedule`: when a name is trained again."""

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from relearn.flows.cli.learn import Config
from relearn.flows.cli.orchestrated import orchestrated
from relearn.flows.cli.releases import Gate
from relearn.flows.settings import ReleaseConfig
from relearn.model.config import TrainConfig
from relearn.model.errors import InputError
from relearn.model.home import Home


def schedule(
    *,
    cron: str | None = None,
    timezone: str | None = None,
    off: Annotated[bool, Parameter(negative=())] = False,
    insist: Annotated[bool, Parameter(negative=())] = False,
    networks: Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))] = ("mlp", "cnn"),
    config: Config = TrainConfig(),
    gate: Gate = ReleaseConfig(),
) -> None:
    """Retrain by the clock while `relearn up` runs: without --cron, tell what is planned.

    Parameters
    ----------
    cron
        When, in cron's five fields, such as "0 3 * * *" for three in the morning; replaces what was planned.
    timezone
        Where the clock hangs, such as Europe/Berlin; UTC by default.
    off
        Plan nothing any more.
    insist
        Train also when data and settings are those of the last time.
    networks
        The networks to train; the best of them is the candidate for the release.
    """
    if off and cron is not None:
        raise InputError("--off: got --cron as well, accepted: one of the two")
    if cron is None and (timezone or insist):
        raise InputError("--timezone and --insist: got no --cron, accepted: with --cron only")
    home = Home.from_environment()
    from relearn.model.datasets import name_of

    name = name_of(config, home)
    if cron is not None:
        from relearn.flows.check import check

        check(config, networks, home)
    with orchestrated(home) as page:
        from relearn.flows import schedule as plans

        if cron is not None:
            plans.plan(name, cron, timezone or "UTC", config, networks, gate, insist)
        elif off:
            plans.unplan(name)
        _show(name, page)


def _show(name: str, page: str | None) -> None:
    from prefect.settings import PREFECT_API_URL

    from relearn.flows.prefect_server import PrefectServer

    console, prefect = Console(highlight=False), PrefectServer(PREFECT_API_URL.value())
    found = [one for one in prefect.deployments(name) if one["flow_name"] == "retrain"]
    plans = [one["schedule"] for row in found for one in row["schedules"] if one["active"]]
    if not plans:
        console.print(f'nothing is planned for {name}; for instance: relearn schedule --cron "0 3 * * *"')
    for plan in plans:
        words = f"{plan['cron']} ({plan.get('timezone') or 'UTC'})" if "cron" in plan else str(plan)
        console.print(f"{name} is trained again at [bold]{words}[/]", soft_wrap=True)
    if plans and (following := prefect.next_run(found[0])):
        console.print(f"next {following.astimezone():%Y-%m-%d %H:%M %Z}")
    if plans and page is None:
        console.print("No runner is up: relearn up starts it, and pages that show and change the plan")
    elif found and page:
        console.print(f"{page}/deployments/deployment/{found[0]['id']}", style="dim", soft_wrap=True)
