"""`relearn schedule`: the retraining schedule of a model name."""

from typing import Annotated

from cyclopts import Parameter
from rich.text import Text

from relearn.flows.cli.parameters import Gate, Networks, Preset, SettingsFile, build_train_config
from relearn.flows.cli.sources import given_values
from relearn.flows.config import PromotionConfig
from relearn.flows.scheduling.prefect_context import prefect_context
from relearn.flows.terminal.console import make_console, print_note
from relearn.flows.terminal.next_step import print_next
from relearn.model.config import RetrainConfig
from relearn.model.errors import UserInputError
from relearn.model.home import Home


def schedule(
    *,
    cron: str | None = None,
    timezone: str | None = None,
    disable: Annotated[bool, Parameter(negative=())] = False,
    force: Annotated[bool, Parameter(negative=())] = False,
    networks: Networks = (),
    config: Annotated[RetrainConfig, Parameter(name="*")] = RetrainConfig(),
    gate: Gate = PromotionConfig(),
    preset: Preset = None,
    file: SettingsFile = None,
) -> None:
    """Show or change the retraining schedule, which applies while `relearn up` runs.

    Example: `relearn schedule --cron "0 3 * * *" --timezone Europe/Berlin`

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
    """
    if disable and cron is not None:
        raise UserInputError("--disable: got --cron as well, accepted: one of the two")
    if cron is None:
        _check_flags_without_cron()
    home = Home.from_environment()
    from relearn.model.data.load import default_model_name

    train_config = build_train_config(config, networks)
    name = default_model_name(train_config, home)
    if cron is not None:
        from relearn.flows.training.preconditions import check_inputs

        check_inputs(train_config, networks, home)
    with prefect_context(home) as ui_url:
        from relearn.flows.scheduling import deployments

        if cron is not None:
            deployments.schedule_retraining(
                name, cron, timezone or "UTC", train_config, networks, gate, force
            )
        elif disable:
            deployments.unschedule_retraining(name)
        _print_schedule(name, ui_url)


def _check_flags_without_cron() -> None:
    """Raise `UserInputError` for flags that only a new schedule has."""
    flags = (name for name, value in given_values.items() if value.source == "cli")
    if unused := sorted(set(flags) - {"dataset", "model_name", "disable"}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise UserInputError(f"{names}: got no --cron, accepted: only with --cron")


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
        console.print(f"{name} has no retraining schedule")
        print_next("schedule", "--cron", "0 3 * * *")
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
        print_note("No worker is running that would start it")
        print_next("up", "--model-name", name)
    elif deployments and ui_url:
        print_note(f"{ui_url}/deployments/deployment/{deployments[0]['id']}", style="dim")
