"""The page that a retraining leaves in Prefect: what was learned, from what, how well, how long."""

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text

from relearn.flows.rendering import Cell, Table, bullets, page, plain
from relearn.flows.results import ReleaseResult, RetrainResult, TrainResult
from relearn.model.data.prepared import PreparedDataset


def report(done: RetrainResult, prepared: PreparedDataset) -> str:
    """Markdown for someone who was not there, the result first."""
    warnings = [f"{one.network}: {line}" for one in done.train_results for line in one.warnings]
    return page(
        _result(done),
        _verdict(done.release_result),
        networks(done.train_results, done.best).to_markdown(),
        bullets(warnings),
        f"## First answer over HTTP\n\n{plain(first)}" if (first := done.release_result.first_answer) else "",
        *_data(prepared),
        _time(done.stage_seconds).to_markdown(),
    )


def networks(trained: Sequence[TrainResult], best: TrainResult) -> Table:
    """One row a network: the `best` first, which stands out, the others by their validation accuracy."""
    ranked = sorted(trained, key=lambda one: (one != best, -one.val_accuracy))
    rows = [
        (
            Text(one.network, Style(bold=one == best and len(trained) > 1)),
            f"{one.parameter_count:,}",
            f"{one.val_accuracy:.2%}",
            f"{one.metrics['accuracy']:.2%}",
            f"{one.metrics['f1_macro']:.3f}",
            f"{one.best_epoch}/{one.epochs}",
            f"{one.images_per_second:,.0f}",
            Text(one.run_id[:8], Style(link=one.url)),
        )
        for one in ranked
    ]
    return Table(("network", "weights", "val", "test", "F1", "epochs", "images/s", "run"), rows, "Networks")


def _result(done: RetrainResult) -> str:
    best, count = done.best, len(done.train_results)
    why = f" It did best of {count} networks on the validation images." if count > 1 else ""
    return (
        f"# {plain(done.name)}: {best.metrics['accuracy']:.2%} of the test images right\n\n"
        f"The candidate is the **{plain(best.network)}**.{why} "
        "The test images were looked at only afterwards."
    )


def _verdict(released: ReleaseResult) -> str:
    verdict = f"**{released.gate_decision.action.upper()}**: {plain(released.headline)}"
    return f"{verdict}\n\n{bullets(released.gate_decision.reasons)}"


def _data(prepared: PreparedDataset) -> tuple[str, ...]:
    channels, height, width = prepared.shape
    counts = ", ".join(f"{sum(images):,} for {part}" for part, images in prepared.counts.items())
    joined = prepared.extra_images
    return (
        "## Data",
        f"{plain(prepared.uri)}: {counts}; {len(prepared.classes)} classes; "
        f"{'colour' if channels == 3 else 'grey'} images of {height}×{width} pixels; "
        f"fingerprint `{prepared.fingerprint[:12]}`."
        + (f" Of the images, {joined.merged:,} are accepted feedback." if joined else ""),
        bullets(f"{one.level}: {one}" for one in prepared.findings) or "Nothing was found wrong with it.",
    )


def _time(seconds: Mapping[str, float]) -> Table:
    total = sum(seconds.values())
    rows: list[tuple[Cell, ...]] = [
        (stage, _duration(spent), f"{spent / (total or 1):.0%}") for stage, spent in seconds.items()
    ]
    rows.append((Text("all", "bold"), Text(_duration(total), "bold"), ""))
    return Table(("stage", "time", "share"), rows, "Time")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"
