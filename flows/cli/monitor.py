"""`relearn monitor`: drift and live accuracy of recent predictions."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from relearn.flows.cli.prefect_context import prefect_context
from relearn.flows.config import MonitorConfig
from relearn.flows.console import make_console
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.monitoring.window import WindowReport


def monitor(
    *,
    model_name: str | None = None,
    config: Annotated[MonitorConfig, Parameter(name="*")] = MonitorConfig(),
) -> None:
    """Check recent predictions: count, confidence, live accuracy and data drift.

    Drift, or a live accuracy clearly below that on the reference images, triggers a retraining, at most once
    per cooldown.

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
        console.print("no retraining was triggered: no Prefect server is running; relearn up starts one")


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
    console.print(f"full report: {home.monitoring_dir(report.name)}", soft_wrap=True)
