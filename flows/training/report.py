"""Report of a retraining for Prefect and MLflow: result, networks, data, times."""

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text

from relearn.flows.results import ReleaseResult, RetrainResult, TrainResult
from relearn.flows.terminal.rendering import Cell, Table, bullets, escape_markdown, join_sections
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.preparation.prepared import PreparedDataset


def to_markdown(result: RetrainResult, prepared: PreparedDataset) -> str:
    """Render the report in Markdown, the result first."""
    warnings = [
        f"{train_result.network}: {warning}"
        for train_result in result.train_results
        for warning in train_result.warnings
    ]
    first_prediction = escape_markdown(result.release_result.first_prediction_text)
    return join_sections(
        _format_result(result),
        _format_gate_decision(result.release_result),
        build_networks_table(result.train_results, result.best).to_markdown(),
        bullets(warnings),
        f"## First prediction over HTTP\n\n{first_prediction}" if first_prediction else "",
        *_format_data(prepared),
        _build_time_table(result.stage_seconds).to_markdown(),
    )


def build_networks_table(train_results: Sequence[TrainResult], best: TrainResult) -> Table:
    """Build a table with one row per network: `best` first, the others by validation accuracy."""
    ranked = sorted(train_results, key=lambda result: (result != best, -result.val_accuracy))
    rows = [
        (
            Text(result.network, Style(bold=result == best and len(train_results) > 1)),
            f"{result.parameter_count:,}",
            f"{100 * result.val_accuracy:.2f}",
            Accuracy.from_metrics(result.metrics).in_table,
            Text(result.run_id[:8], Style(link=result.url)),
        )
        for result in ranked
    ]
    title = f"Networks: accuracy in %, 95 % interval on {best.metrics['images']:,.0f} test images"
    return Table(("network", "weights", "val", "test", "run"), rows, title)


def _format_result(result: RetrainResult) -> str:
    best, count = result.best, len(result.train_results)
    selection = f" It was the best of {count} networks on the validation images." if count > 1 else ""
    accuracy = Accuracy.from_metrics(best.metrics)
    return (
        f"# {escape_markdown(result.name)}: test accuracy {accuracy}\n\n"
        f"The candidate is the **{escape_markdown(best.network)}**.{selection} "
        "The test images were used only afterwards."
    )


def _format_gate_decision(result: ReleaseResult) -> str:
    decision = result.gate_decision
    return f"**{decision.action.upper()}**: {escape_markdown(result.summary)}\n\n{bullets(decision.reasons)}"


def describe_images(prepared: PreparedDataset) -> str:
    """Return one sentence: images of each split, classes, color and size."""
    channels, height, width = prepared.shape
    counts = ", ".join(f"{sum(images):,} for {split}" for split, images in prepared.counts.items())
    return (
        f"{counts}; {len(prepared.classes)} classes; {'color' if channels == 3 else 'gray'} images of "
        f"{height}×{width} pixels"
    )


def _format_data(prepared: PreparedDataset) -> tuple[str, ...]:
    merge_summary = prepared.extra_images
    return (
        "## Data",
        f"{escape_markdown(prepared.uri)}: {describe_images(prepared)}; "
        f"fingerprint `{prepared.fingerprint[:12]}`."
        + (f" Of the images, {merge_summary.merged:,} are accepted feedback." if merge_summary else ""),
        bullets(f"{finding.level}: {finding}" for finding in prepared.findings)
        or "The checks found no problem.",
    )


def _build_time_table(stage_seconds: Mapping[str, float]) -> Table:
    total = sum(stage_seconds.values())
    rows: list[tuple[Cell, ...]] = [
        (stage, _format_duration(seconds), f"{seconds / (total or 1):.0%}")
        for stage, seconds in stage_seconds.items()
    ]
    rows.append((Text("total", "bold"), Text(_format_duration(total), "bold"), ""))
    return Table(("stage", "time", "share"), rows, "Time")


def _format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    return f"{minutes} min {remaining_seconds:02} s"
