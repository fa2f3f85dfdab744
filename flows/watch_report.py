"""How a look of the monitor is told: a page for people, gauges for Prometheus."""

from rich.text import Text

from relearn.flows import rendering
from relearn.flows.alarm import Alarm
from relearn.flows.rendering import Table, bullets, plain
from relearn.flows.watched import Answers, Watched, listed
from relearn.model.drift import CONFIDENCE, LABELS, Measure, told

LATENCY = (
    "How long answers take is not recorded: every server counts it at `/metrics`, `relearn_request_seconds`."
)


def page(watched: Watched) -> str:
    """Markdown, the outcome first."""
    config = watched.config
    drift = (
        f"Drift is a distance of {config.least_distance:g} or more, and a p-value, corrected for all "
        f"measures, below {config.drift_significance:g}. Traits are means over the images of all versions, "
        "confidence is that of the live version; of labels that class is shown whose share has changed most."
    )
    versions = ", ".join(f"{count:,} by version {plain(one)}" for one, count in watched.versions.items())
    return rendering.page(
        f"# {plain(watched.name)}: {plain(watched.outcome)}",
        f"{watched.at:%Y-%m-%d %H:%M} UTC: {watched.window}. Version {plain(watched.version)} is live.",
        bullets(lines(watched)),
        measures(watched).to_markdown(),
        drift if watched.drift.measures else "",
        _answers(watched, watched.now).to_markdown() if watched.now else "",
        "## Volume",
        f"{watched.images:,} images in {watched.requests:,} requests in the last {config.window_hours:g} "
        f"hours{f': {versions}' if versions else ''}. {LATENCY}",
    )


def measures(watched: Watched) -> Table:
    """One row a measure of drift, the most distant first."""
    rows = [
        (
            f"{one.name} ({one.label})" if one.label else one.name,
            _mean(one, one.before),
            _mean(one, one.now),
            f"{one.distance:.3f}",
            told(one.p_value).removeprefix("p ").removeprefix("= "),
            Text("yes", "bold red") if one.drifted else "no",
        )
        for one in sorted(watched.drift.measures, key=lambda one: -one.distance)
    ]
    return Table(("measure", "reference", "window", "distance", "p", "drift"), rows, "Drift")


def lines(watched: Watched) -> list[str]:
    """What no table tells, a line each: what was not tested, how right the answers are, what is asked for."""
    few, accuracy, told = watched.drift.too_few, watched.accuracy, []
    if watched.drift.measures and few:
        told.append(
            f"{listed(list(few))} not tested: version {watched.version} has {max(few.values()):,} answers, "
            f"accepted: {watched.config.least_answers:,} or more"
        )
    if accuracy:
        told.append(f"right are {accuracy}; of the reference images {watched.right:.1%}")
    elif watched.images:
        told.append(
            f"nobody told the truth about an answer of version {watched.version}: POST /feedback does"
        )
    return told + [_alarm(one) for one in watched.alarms]


def gauges(watched: Watched) -> dict[str, dict[str, float]]:
    """By the names of `relearn.serving.monitored`; what is not known is not there."""
    measures, now, accuracy = watched.drift.measures, watched.now, watched.accuracy
    values: dict[str, dict[str, float]] = {
        "relearn_monitor_time_seconds": {"": watched.at.timestamp()},
        "relearn_monitor_answers": {"": watched.images},
        "relearn_monitor_truths": {"": accuracy.truths if accuracy else 0},
        "relearn_reference_accuracy": {"": watched.right},
        "relearn_drift": {one.name: one.drifted for one in measures},
        "relearn_drift_distance": {one.name: one.distance for one in measures},
    }
    if now:
        values["relearn_class_share"] = now.labels
        values["relearn_mean_confidence"] = {"": now.confidence}
        values["relearn_low_confidence_share"] = {"": now.low_confidence}
    if accuracy:
        values["relearn_live_accuracy"] = {"": accuracy.share}
        values["relearn_live_accuracy_low"] = {"": accuracy.low}
        values["relearn_live_accuracy_high"] = {"": accuracy.high}
    return values


def _mean(measure: Measure, value: float) -> str:
    """A mean as its measure is written: traits as numbers, confidence and labels as shares."""
    return f"{value:.1%}" if measure.name in (CONFIDENCE, LABELS) else f"{value:.3f}"


def _alarm(alarm: Alarm) -> str:
    if alarm.new:
        return f"a retraining was asked for by the event {alarm.event}: whoever waits for it starts one"
    return f"{alarm.event} goes on: a retraining was asked for at {alarm.given:%Y-%m-%d %H:%M} UTC"


def _answers(watched: Watched, now: Answers) -> Table:
    before, low = watched.before, watched.config.low_confidence
    values = {
        "mean confidence": (before.confidence, now.confidence),
        f"confidence below {low:.0%}": (before.low_confidence, now.low_confidence),
        **{f"label {label}": (before.labels[label], share) for label, share in now.labels.items()},
    }
    sides = (f"reference, {before.images:,} images", f"window, {now.images:,} images")
    rows = [(key, *map("{:.1%}".format, pair)) for key, pair in values.items()]
    return Table(("", *sides), rows, f"Answers of version {watched.version}")
