"""How a look of the monitor is told: a page for people, gauges for Prometheus."""

from relearn.flows.alarm import Alarm
from relearn.flows.markdown import plain, table
from relearn.flows.watched import Watched, listed
from relearn.model.drift import CONFIDENCE, LABELS, Measure, told

LATENCY = (
    "How long answers take is not recorded: every server counts it at `/metrics`, `relearn_request_seconds`."
)


def page(watched: Watched) -> str:
    """Markdown, the outcome first."""
    parts = [
        f"# {plain(watched.name)}: {plain(watched.outcome)}",
        f"{watched.at:%Y-%m-%d %H:%M} UTC: {watched.window}. Version {plain(watched.version)} is live.",
        "\n".join(f"- {plain(line)}" for line in lines(watched)),
        _drift(watched),
        _answers(watched),
        f"## Volume\n\n{_volume(watched)} {LATENCY}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def mean(measure: Measure, value: float) -> str:
    """A mean as its measure is written: traits as numbers, confidence and labels as shares."""
    return f"{value:.1%}" if measure.name in (CONFIDENCE, LABELS) else f"{value:.3f}"


def _alarm(alarm: Alarm) -> str:
    if alarm.new:
        return f"a retraining was asked for by the event {alarm.event}: whoever waits for it starts one"
    return f"{alarm.event} goes on: a retraining was asked for at {alarm.given:%Y-%m-%d %H:%M} UTC"


def _drift(watched: Watched) -> str:
    config, measures = watched.config, watched.drift.measures
    if not measures:
        return ""
    rows = [
        (
            plain(f"{one.name} ({one.label})" if one.label else one.name),
            mean(one, one.before),
            mean(one, one.now),
            f"{one.distance:.3f}",
            told(one.p_value).removeprefix("p ").removeprefix("= ").replace("<", r"\<"),
            "**yes**" if one.drifted else "no",
        )
        for one in sorted(measures, key=lambda one: -one.distance)
    ]
    return (
        "## Drift\n\n"
        + table(("Measure", "Reference", "Window", "Distance", "p", "Drift"), rows)
        + f"\n\nDrift is a distance of {config.least_distance:g} or more, and a p-value, corrected for all "
        f"measures, below {config.drift_significance:g}. Traits are means over the images of all versions, "
        "confidence is that of the live version; of labels that class is shown whose share has changed most."
    )


def _answers(watched: Watched) -> str:
    now, before = watched.now, watched.before
    if now is None:
        return ""
    rows = [
        ("mean confidence", f"{before.confidence:.1%}", f"{now.confidence:.1%}"),
        (
            f"confidence below {watched.config.low_confidence:.0%}",
            f"{before.low_confidence:.1%}",
            f"{now.low_confidence:.1%}",
        ),
        *(
            (f"label {plain(label)}", f"{before.labels[label]:.1%}", f"{share:.1%}")
            for label, share in now.labels.items()
        ),
    ]
    return f"## Answers of version {plain(watched.version)}\n\n" + table(
        ("", f"Reference, {before.images:,} images", f"Window, {now.images:,} images"), rows
    )


def _volume(watched: Watched) -> str:
    versions = ", ".join(f"{count:,} by version {plain(one)}" for one, count in watched.versions.items())
    return (
        f"{watched.images:,} images in {watched.requests:,} requests in the last "
        f"{watched.config.window_hours:g} hours{f': {versions}' if versions else ''}."
    )
