"""The page that a retraining leaves in Prefect: what was learned, from what, how well, how long."""

from collections.abc import Mapping

from relearn.flows.markdown import plain, table
from relearn.flows.results import Released, Retrained, Trained
from relearn.model.prepared import Prepared


def report(done: Retrained, prepared: Prepared) -> str:
    """Markdown for someone who was not there, the result first."""
    parts = [
        _result(done),
        _verdict(done.released),
        _networks(done),
        _answer(done.released),
        _data(prepared),
        _time(done.seconds),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _result(done: Retrained) -> str:
    best, count = done.best, len(done.trained)
    why = f" It did best of {count} networks on the validation images." if count > 1 else ""
    return (
        f"# {plain(done.name)}: {best.metrics['accuracy']:.2%} of the test images right\n\n"
        f"The candidate is the **{plain(best.network)}**.{why} "
        "The test images were looked at only afterwards."
    )


def _verdict(released: Released) -> str:
    reasons = "\n".join(f"- {plain(reason)}" for reason in released.verdict.reasons)
    return f"**{released.verdict.action.upper()}**: {plain(released.headline)}\n\n{reasons}"


def _networks(done: Retrained) -> str:
    chosen = done.best.network
    ranked = sorted(done.trained, key=lambda one: (one.network != chosen, -one.val_accuracy))
    rows = [
        (
            _linked(one, "**" if one.network == chosen else ""),
            f"{one.val_accuracy:.2%}",
            f"{one.metrics['accuracy']:.2%}",
            f"{one.metrics['f1_macro']:.4f}",
            f"{one.parameters:,}",
            _duration(one.seconds),
        )
        for one in ranked
    ]
    head = ("Run in MLflow", "Validation accuracy", "Test accuracy", "Test F1", "Parameters", "Training")
    warnings = [f"- {plain(one.network)}: {plain(line)}" for one in ranked for line in one.warnings]
    return "\n\n".join(["## Networks", table(head, rows), *(["\n".join(warnings)] if warnings else [])])


def _linked(trained: Trained, mark: str) -> str:
    return f"{mark}[{plain(trained.network)}]({trained.url}){mark}"


def _answer(released: Released) -> str:
    """Nothing where no server was asked."""
    if released.trial is None or released.trial.first is None:
        return ""
    answer = released.trial.first
    right = "right" if answer.label == released.truth else f"wrong, it is **{plain(released.truth)}**"
    return (
        "## First answer over HTTP\n\n"
        f"The server said **{plain(answer.label)}** with {answer.probability:.1%} to the first reference "
        f"image ({right}), from version {plain(answer.version)}; an answer takes "
        f"{released.trial.milliseconds:.1f} ms."
    )


def _data(prepared: Prepared) -> str:
    channels, height, width = prepared.shape
    counts = ", ".join(f"{sum(images):,} for {part}" for part, images in prepared.counts.items())
    findings = [f"- {plain(finding.level)}: {plain(str(finding))}" for finding in prepared.findings]
    joined = prepared.additions
    added = f" Of the images, {joined.images:,} are accepted feedback." if joined else ""
    return "\n\n".join(
        [
            "## Data",
            f"{plain(prepared.source)}: {counts}; {len(prepared.classes)} classes; "
            f"{'colour' if channels == 3 else 'grey'} images of {height}×{width} pixels; "
            f"fingerprint `{prepared.fingerprint[:12]}`.{added}",
            "\n".join(findings) or "Nothing was found wrong with it.",
        ]
    )


def _time(seconds: Mapping[str, float]) -> str:
    total = sum(seconds.values())
    rows = [
        (plain(stage), _duration(spent), f"{spent / total:.0%}" if total else "–")
        for stage, spent in seconds.items()
    ]
    return "## Time\n\n" + table(
        ("Stage", "Time", "Share"), [*rows, ("**all**", f"**{_duration(total)}**", "")]
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"
