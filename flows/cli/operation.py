"""Commands for operation: `relearn status`, `monitor` and `doctor`."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from relearn.flows.cli.parameters import Json, Preset, SettingsFile
from relearn.flows.cli.sources import given_values
from relearn.flows.config import MonitorConfig, PromotionConfig, Settings
from relearn.flows.process.environment import redact_password, user_variables
from relearn.flows.scheduling.prefect_context import prefect_context
from relearn.flows.terminal.console import make_console, print_json, print_note, spinner
from relearn.flows.terminal.next_step import print_next
from relearn.flows.terminal.rendering import Table, build_row
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.home import Home
from relearn.serving.config import ServeConfig

if TYPE_CHECKING:
    from relearn.flows.monitoring.window import WindowReport
    from relearn.flows.ops.checks.check import CheckResult

STATE_MARKS = {
    "ok": ("✓", "green"),
    "skipped": ("·", "dim"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}
SECRET = re.compile("KEY|TOKEN|PASSWORD|AUTH|HEADERS")  # in names of variables whose value is not printed
SETTINGS_TABLES: dict[str, type[BaseModel]] = {
    "Training": TrainConfig,
    "Promotion gate": PromotionConfig,
    "Monitoring": MonitorConfig,
    "Serving": ServeConfig,
}
LABEL_WIDTH = 17  # characters of the widest label


@spinner("Monitoring")
def monitor(
    *,
    model_name: str | None = None,
    config: Annotated[MonitorConfig, Parameter(name="*")] = MonitorConfig(),
    file: SettingsFile = None,
) -> None:
    """Check recent predictions: count, confidence, live accuracy and data drift.

    Drift, or a live accuracy clearly below that on the reference images, triggers a retraining, at most once
    per cooldown.

    Example: `relearn monitor --window-hours 6`

    Parameters
    ----------
    model_name
        Model name; optional while only one is released.
    """
    from relearn.serving.releases.store import get_current_release

    home = Home.from_environment()
    model_name, _ = get_current_release(home, model_name)
    with prefect_context(home) as ui_url:
        from relearn.flows.monitor import monitor as monitor_flow

        report = monitor_flow(model_name, config, emit=ui_url is not None)
    console = make_console()
    print_report(console, report, home)
    if report.alert_reasons and ui_url is None:
        print_note("no retraining was triggered: no Prefect server is running")
        print_next("up", "--model-name", model_name)


def print_report(console: Console, report: "WindowReport", home: Home) -> None:
    """Print the measurements, the result, and the folder of the full report."""
    from relearn.flows.monitoring.report import drift_table, summary_lines

    if report.drift.tests:
        console.print(drift_table(report))
    if report.window_predictions:
        console.print(
            f"version {report.live_version} has a mean confidence of"
            f" {report.window_predictions.mean_confidence:.1%};"
            f" {report.window_predictions.low_confidence_fraction:.1%} of its predictions are below"
            f" {report.config.low_confidence:.0%}"
        )
    for line in summary_lines(report):
        console.print(line)
    color = "red" if report.alerts else "green" if report.drift.can_see_large_drift else "yellow"
    console.print(Text.assemble(f"{report.name}: ", (report.summary, color), f", {report.window_summary}"))
    print_note(f"full report: {home.monitoring_dir(report.name)}")


@spinner("Looking")
def status(*, json: Json = False) -> None:
    """Show the live version, the services, and the last and next retraining on one screen.

    A service that does not respond is reported in its own line.

    Example: `relearn status`
    """
    from relearn.flows.ops.status import status as query_status

    lines = query_status(Home.from_environment())
    if json:
        print_json(list(lines))
        return
    console, subject = _make_wide_console(), ""
    for line in lines:
        if line.subject != subject:
            subject = line.subject
            console.print(Text(subject, style="bold"))
        console.print(build_row(Text(f"  {line.label}", style="dim"), Text(line.text), LABEL_WIDTH))


def _make_wide_console() -> Console:
    """Return a console that never wraps outside of a terminal, so that every result is one line for grep."""
    console = make_console()
    return console if console.is_terminal else make_console(width=10_000)


def doctor(
    *,
    settings: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
    all_settings: Annotated[Settings, Parameter(name="*", show=False)] = Settings(),
    preset: Preset = None,
    file: SettingsFile = None,
) -> None:
    """Check the machine, the tools and the stored data, and print a fix for each failure. Nothing is changed.

    Exit codes: 0 without failures, 3 for a failure of the machine or a tool, 4 for corrupt data.

    Example: `relearn doctor --settings --preset fast`

    Parameters
    ----------
    settings
        Print all settings instead, each with its value, where that comes from, and its meaning; and the
        variables of the tools that have an effect.
    """
    if settings:
        _print_settings(all_settings, json)
        return
    from relearn.flows.ops.doctor import run_checks

    checks = run_checks(Home.from_environment())
    with spinner("Checking"):
        results = list(checks if json else _print_results(checks))
    if json:
        print_json(results)
    failures = [result for result in results if result.state == "failed"]
    if failures:
        failed_checks = ", ".join(dict.fromkeys(f"{result.group} {result.check}" for result in failures))
        has_corrupt_data = any(result.exit_code == CorruptDataError.exit_code for result in failures)
        error_class = CorruptDataError if has_corrupt_data else InfrastructureError
        raise error_class(f"failed checks: {failed_checks}; each fix is printed above")


def _print_settings(settings: Settings, json: bool) -> None:
    console = _make_wide_console()
    variables = {
        name: "…" if SECRET.search(name) else redact_password(value)
        for name, value in user_variables().items()
    }
    if json:
        sources = {name: given_values[name].source for name in Settings.model_fields if name in given_values}
        print_json({"settings": settings, "sources": sources, "variables": variables})
        return
    for title, table in SETTINGS_TABLES.items():
        rows = [
            (
                name,
                "" if (value := getattr(settings, name)) is None else str(value),
                given_values[name].source if name in given_values else "default",
                str(field.description),
            )
            for name, field in table.model_fields.items()
        ]
        console.print(Table(("setting", "value", "from", "meaning"), rows, title))
    if variables:
        console.print(Table(("variable", "value"), list(variables.items()), "Other variables with an effect"))


def _print_results(results: Iterable["CheckResult"]) -> Iterator["CheckResult"]:
    """Print each result when it comes, and yield it; at the end print how many passed and failed."""
    console, group, states = _make_wide_console(), "", Counter[str]()
    for result in results:
        if result.group != group:
            group = result.group
            console.print(group, style="bold")
        _print_result(console, result)
        states[result.state] += 1
        yield result
    console.print(f"{states['ok']} ok, {states['warning']} warnings, {states['failed']} failed")


def _print_result(console: Console, result: "CheckResult") -> None:
    """Print mark, check and message; the fix on a line of its own, not wrapped, so it can be copied."""
    mark, style = STATE_MARKS[result.state]
    label = Text.assemble(("  " + mark, style), f" {result.check}")
    text = Text(
        f"{result.subject}: {result.message}" if result.subject else result.message,
        "dim" if result.state == "skipped" else "",
    )
    console.print(build_row(label, text, LABEL_WIDTH))
    if result.fix:
        console.print(f"{'':{LABEL_WIDTH + 1}}→ {result.fix}", style="bold", soft_wrap=True)
