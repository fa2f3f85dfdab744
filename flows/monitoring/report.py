"""How a look of the monitor is told: a page for people, gauges for Prometheus."""

from rich.text import Text

from relearn.flows import rendering
from relearn.flows.monitoring.alerts import Alert
from relearn.flows.monitoring.window import PredictionSummary, WindowReport, join_names
from relearn.flows.rendering import Table, bullets, escape_markdown
from relearn.model.drift.drift_test import CONFIDENCE, LABELS, DriftTest, format_p_value

LATENCY = (
    "How long answers take is not recorded: every server counts it at `/metrics`, `relearn_request_seconds`."
)


def page(watched: WindowReport) -> str:
    """Markdown, the outcome first."""
    config = watched.config
    drift = (
        f"Drift is a distance of {config.min_effect_size:g} or more, and a p-value, corrected for all "
        f"measures, below {config.drift_significance:g}. Traits are means over the images of all versions, "
        "confidence is that of the live version; of labels that class is shown whose share has changed most."
    )
    versions = ", ".join(
        f"{count:,} by version {escape_markdown(one)}" for one, count in watched.images_by_version.items()
    )
    return rendering.join_sections(
        f"# {escape_markdown(watched.name)}: {escape_markdown(watched.summary)}",
        f"{watched.window_end:%Y-%m-%d %H:%M} UTC: {watched.window_summary}. Version"
        f" {escape_markdown(watched.live_version)} is live.",
        bullets(lines(watched)),
        measures(watched).to_markdown(),
        drift if watched.drift.tests else "",
        _answers(watched, watched.window_predictions).to_markdown() if watched.window_predictions else "",
        "## Volume",
        f"{watched.images:,} images in {watched.requests:,} requests in the last {config.window_hours:g} "
        f"hours{f': {versions}' if versions else ''}. {LATENCY}",
    )


def measures(watched: WindowReport) -> Table:
    """One row a measure of drift, the most distant first."""
    rows = [
        (
            f"{one.name} ({one.label})" if one.label else one.name,
            _mean(one, one.reference),
            _mean(one, one.window),
            f"{one.effect_size:.3f}",
            format_p_value(one.p_value).removeprefix("p ").removeprefix("= "),
            Text("yes", "bold red") if one.has_drifted else "no",
        )
        for one in sorted(watched.drift.tests, key=lambda one: -one.effect_size)
    ]
    return Table(("measure", "reference", "window", "distance", "p", "drift"), rows, "Drift")


def lines(watched: WindowReport) -> list[str]:
    """What no table tells, a line each: what was not tested, how right the answers are, what is asked for."""
    few, accuracy, told = watched.drift.insufficient_data, watched.live_accuracy, []
    if watched.drift.tests and few:
        told.append(
            f"{join_names(list(few))} not tested: version {watched.live_version} has {max(few.values()):,}"
            f" answers, accepted: {watched.config.min_predictions:,} or more"
        )
    if accuracy:
        told.append(f"right are {accuracy}; of the reference images {watched.reference_accuracy:.1%}")
    elif watched.images:
        told.append(
            f"nobody told the truth about an answer of version {watched.live_version}: POST /feedback does"
        )
    return told + [_alarm(one) for one in watched.alerts]


def gauges(watched: WindowReport) -> dict[str, dict[str, float]]:
    """By the names of `relearn.serving.metrics.textfile_metrics`; what is not known is not there."""
    measures, now, accuracy = watched.drift.tests, watched.window_predictions, watched.live_accuracy
    values: dict[str, dict[str, float]] = {
        "relearn_monitor_last_run_timestamp_seconds": {"": watched.window_end.timestamp()},
        "relearn_monitor_predictions": {"": watched.images},
        "relearn_monitor_labels": {"": accuracy.labels if accuracy else 0},
        "relearn_reference_accuracy": {"": watched.reference_accuracy},
        "relearn_drift": {one.name: one.has_drifted for one in measures},
        "relearn_drift_effect_size": {one.name: one.effect_size for one in measures},
    }
    if now:
        values["relearn_class_fraction"] = now.label_fractions
        values["relearn_mean_confidence"] = {"": now.mean_confidence}
        values["relearn_low_confidence_fraction"] = {"": now.low_confidence_fraction}
    if accuracy:
        values["relearn_live_accuracy"] = {"": accuracy.fraction}
        values["relearn_live_accuracy_low"] = {"": accuracy.ci_low}
        values["relearn_live_accuracy_high"] = {"": accuracy.ci_high}
    return values


def _mean(measure: DriftTest, value: float) -> str:
    """A mean as its measure is written: traits as numbers, confidence and labels as shares."""
    return f"{value:.1%}" if measure.name in (CONFIDENCE, LABELS) else f"{value:.3f}"


def _alarm(alarm: Alert) -> str:
    if alarm.emitted_now:
        return f"a retraining was asked for by the event {alarm.event}: whoever waits for it starts one"
    return f"{alarm.event} goes on: a retraining was asked for at {alarm.last_emitted:%Y-%m-%d %H:%M} UTC"


def _answers(watched: WindowReport, now: PredictionSummary) -> Table:
    before, low = watched.reference_predictions, watched.config.low_confidence
    values = {
        "mean confidence": (before.mean_confidence, now.mean_confidence),
        f"confidence below {low:.0%}": (before.low_confidence_fraction, now.low_confidence_fraction),
        **{
            f"label {label}": (before.label_fractions[label], share)
            for label, share in now.label_fractions.items()
        },
    }
    sides = (f"reference, {before.images:,} images", f"window, {now.images:,} images")
    rows = [(key, *map("{:.1%}".format, pair)) for key, pair in values.items()]
    return Table(("", *sides), rows, f"Answers of version {watched.live_version}")
