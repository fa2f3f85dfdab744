"""`relearn schedule`: the retraining schedule of a model name."""

from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from relearn.flows.cli.prefect_context import prefect_context
from relearn.flows.cli.releases import Gate
from relearn.flows.cli.train import Config
from relearn.flows.config import PromotionConfig
from relearn.flows.console import make_console
from relearn.model.config import TrainConfig
from relearn.model.errors import UserInputError
from relearn.model.home import Home


def schedule(
    *,
    cron: str | None = None,
    timezone: str | None = None,
    disable: Annotated[bool, Parameter(negative=())] = False,
    force: Annotated[bool, Parameter(negative=())] = False,
    networks: Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))] = ("mlp", "cnn"),
    config: Config = TrainConfig(),
    gate: Gate = PromotionConfig(),
) -> None:
    """Show or change the retraining schedule, which applies while `relearn up` runs.

    Parameters
    ----------
    cron
        New schedule as a cron expression of five fields, such as "0 3 * * *" for 3 a.m. every day.
    timezone
        Time zone of the cron expression, such as Europe/Berlin; UTC by default.
    disable
        Remove the schedule.
    force
        Retrain even if data and settings have not changed since the last training.
    networks
        Networks to train; the best one becomes the release candidate.
    """
    if disable and cron is not None:
        raise UserInputError("--disable: got --cron as well, accepted: one of the two")
    if cron is None and (timezone or force):
        raise UserInputError("--timezone, --force: got no --cron, accepted: only with --cron")
    home = Home.from_environment()
    from relearn.model.data.load import default_model_name

    name = default_model_name(config, home)
    if cron is not None:
        from relearn.flows.training.preconditions import check_inputs

        check_inputs(config, networks, home)
    with prefect_context(home) as ui_url:
        from relearn.flows.scheduling import deployments

        if cron is not None:
            deployments.schedule_retraining(name, cron, timezone or "UTC", config, networks, gate, force)
        elif disable:
            deployments.unschedule_retraining(name)
        _print_schedule(name, ui_url)


def _print_schedule(name: str, ui_url: str | None) -> None:
    from prefect.settings import PREFECT_API_URL

    from relearn.flows.orchestration.prefect_api import PrefectApi

    console, prefect_api = make_console(), PrefectApi(PREFECT_API_URL.value())
    deployments = [
        deployment
        for deployment in prefect_api.list_deployments(name)
        if deployment["flow_name"] == "retrain"
    ]
    active_schedules = [
        entry["schedule"]
        for deployment in deployments
        for entry in deployment["schedules"]
        if entry["active"]
    ]
    if not active_schedules:
        example = 'relearn schedule --cron "0 3 * * *"'
        console.print(f"{name} has no retraining schedule; to set one: {example}", soft_wrap=True)
    for active_schedule in active_schedules:
        description = (
            f"{active_schedule['cron']} ({active_schedule.get('timezone') or 'UTC'})"
            if "cron" in active_schedule
            else str(active_schedule)
        )
        console.print(Text.assemble(f"{name} is retrained at ", (description, "bold")), soft_wrap=True)
    if active_schedules and (next_start := prefect_api.find_next_run_time(deployments[0])):
        console.print(f"next run {next_start.astimezone():%Y-%m-%d %H:%M %Z}")
    if active_schedules and ui_url is None:
        console.print("No worker is running; relearn up starts it and the Prefect UI", soft_wrap=True)
    elif deployments and ui_url:
        console.print(f"{ui_url}/deployments/deployment/{deployments[0]['id']}", style="dim", soft_wrap=True)
