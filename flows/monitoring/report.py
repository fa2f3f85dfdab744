"""Outputs of a window report: Markdown, tables and lines for users, metrics for Prometheus."""

from rich.text import Text

from relearn.flows.monitoring.retraining_triggers import Alert
from relearn.flows.monitoring.window import PredictionSummary, WindowReport, join_names
from relearn.flows.terminal import rendering
from relearn.flows.terminal.rendering import Table, bullets, escape_markdown
from relearn.model.drift.detect import CONFIDENCE, LABELS, DriftTest, format_p_value
from relearn.model.drift.power import POWER

LATENCY_NOTE = (
    "Latency is not logged here: every server exports it at `/metrics`, as `relearn_request_seconds`."
)


def to_markdown(report: WindowReport) -> str:
    """Return the report as Markdown, the summary first."""
    config = report.config
    drift_note = (
        f"Drift is an effect size of {config.min_effect_size:g} or more and a p-value, corrected for all "
        f"tests, below {config.drift_significance:g}. Image statistics are means over the images of all "
        "versions, confidence is that of the live version; for labels, the class whose fraction changed most "
        "is shown."
    )
    versions = ", ".join(
        f"{count:,} by version {escape_markdown(version)}"
        for version, count in report.images_by_version.items()
    )
    return rendering.join_sections(
        f"# {escape_markdown(report.name)}: {escape_markdown(report.summary)}",
        f"{report.window_end:%Y-%m-%d %H:%M} UTC: {report.window_summary}. Version"
        f" {escape_markdown(report.live_version)} is live.",
        bullets(summary_lines(report)),
        drift_table(report).to_markdown(),
        drift_note if report.drift.tests else "",
        _prediction_table(report, report.window_predictions).to_markdown()
        if report.window_predictions
        else "",
        "## Volume",
        f"{report.images:,} images in {report.requests:,} requests in the last {config.window_hours:g} "
        f"hours{f': {versions}' if versions else ''}. {LATENCY_NOTE}",
    )


def drift_table(report: WindowReport) -> Table:
    """Return a table with a row per drift test, the largest effect size first."""
    rows = [
        (
            f"{test.name} ({test.label})" if test.label else test.name,
            _format_mean(test, test.reference),
            _format_mean(test, test.window),
            f"{test.effect_size:.3f}",
            format_p_value(test.p_value).removeprefix("p ").removeprefix("= "),
            Text("yes", "bold red") if test.has_drifted else "no",
        )
        for test in sorted(report.drift.tests, key=lambda test: -test.effect_size)
    ]
    return Table(("test", "reference", "window", "effect size", "p", "drift"), rows, "Drift")


def summary_lines(report: WindowReport) -> list[str]:
    """Return a line each for tests without enough data, power, live accuracy, and alerts."""
    counts, accuracy, lines = report.drift.insufficient_data, report.live_accuracy, []
    if report.drift.tests and counts:
        lines.append(
            f"{join_names(list(counts))} not tested: version {report.live_version} has"
            f" {max(counts.values()):,} predictions, accepted: {report.config.min_predictions:,} or more"
        )
    if report.drift.tests:
        lines.append(describe_power(report))
    if accuracy:
        lines.append(
            f"live accuracy is {accuracy}; on the reference images it is {report.reference_accuracy}"
        )
    elif report.images:
        lines.append(
            f"no sampled prediction of version {report.live_version} is labeled yet: serve with "
            "--image-sample-rate, then relearn feedback review --sampled"
        )
    return lines + [_describe_alert(alert) for alert in report.alerts]


def describe_power(report: WindowReport) -> str:
    """Return which changes the drift tests find with so many images, and what helps if those are too few."""
    window_images = min(test.images for test in report.drift.tests)
    advice = (
        ""
        if report.drift.can_see_large_drift
        else "; more reference images (relearn release --reference) or a longer window (--window-hours) make "
        "smaller changes visible"
    )
    return (
        f"with {report.reference_predictions.images:,} reference images and {window_images:,} predictions, "
        f"drift is found with a probability of {100 * POWER:.0f} % or more if it changes "
        f"{100 * report.drift.detectable_effect:.0f} % of the images{advice}"
    )


def to_metrics(report: WindowReport) -> dict[str, dict[str, float]]:
    """Return the metrics of the report by name and label value, without those whose value is unknown.

    The names are defined in `relearn.serving.metrics.textfile_metrics`.
    """
    tests, predictions, accuracy = report.drift.tests, report.window_predictions, report.live_accuracy
    values: dict[str, dict[str, float]] = {
        "relearn_monitor_last_run_timestamp_seconds": {"": report.window_end.timestamp()},
        "relearn_monitor_predictions": {"": report.images},
        "relearn_monitor_labels": {"": accuracy.images if accuracy else 0},
        "relearn_reference_accuracy": {"": report.reference_accuracy.fraction},
        "relearn_drift": {test.name: test.has_drifted for test in tests},
        "relearn_drift_effect_size": {test.name: test.effect_size for test in tests},
    }
    if predictions:
        values["relearn_class_fraction"] = predictions.label_fractions
        values["relearn_mean_confidence"] = {"": predictions.mean_confidence}
        values["relearn_low_confidence_fraction"] = {"": predictions.low_confidence_fraction}
    if accuracy:
        values["relearn_live_accuracy"] = {"": accuracy.fraction}
        values["relearn_live_accuracy_low"] = {"": accuracy.low}
        values["relearn_live_accuracy_high"] = {"": accuracy.high}
        values["relearn_live_accuracy_dropped"] = {"": report.has_accuracy_dropped}
    return values


def _format_mean(test: DriftTest, value: float) -> str:
    """Format a mean: confidence and labels as percentages, image statistics as numbers."""
    return f"{value:.1%}" if test.name in (CONFIDENCE, LABELS) else f"{value:.3f}"


def _describe_alert(alert: Alert) -> str:
    if alert.emitted_now:
        return f"a retraining was asked for by the event {alert.event}: its deployment starts one"
    return f"{alert.event} continues: a retraining was asked for at {alert.last_emitted:%Y-%m-%d %H:%M} UTC"


def _prediction_table(report: WindowReport, window: PredictionSummary) -> Table:
    reference, threshold = report.reference_predictions, report.config.low_confidence
    values = {
        "mean confidence": (reference.mean_confidence, window.mean_confidence),
        f"confidence below {threshold:.0%}": (
            reference.low_confidence_fraction,
            window.low_confidence_fraction,
        ),
        **{
            f"label {label}": (reference.label_fractions[label], fraction)
            for label, fraction in window.label_fractions.items()
        },
    }
    columns = (f"reference, {reference.images:,} images", f"window, {window.images:,} images")
    rows = [(key, *map("{:.1%}".format, pair)) for key, pair in values.items()]
    return Table(("", *columns), rows, f"Predictions of version {report.live_version}")
