"""Report of an evaluated run: one HTML page with its figures and numbers, which needs no other file."""

import base64
import io
from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import jinja2
import numpy as np
import pandas as pd

from relearn.flows.evaluation.compare import load_history
from relearn.flows.evaluation.evaluate import EvaluationResult
from relearn.flows.promotion.gate_report import DECISION_FILE
from relearn.flows.results import GateDecision
from relearn.flows.terminal.rendering import render_figure
from relearn.flows.tracking.artifacts import load_artifact
from relearn.flows.tracking.data_history import load_image_list
from relearn.flows.tracking.runs import attach_run
from relearn.flows.tracking.search import MlflowRun
from relearn.flows.tracking.store import connect_existing
from relearn.model.data.splits import hash_contents
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from relearn.model.plots import evaluation as plots
from relearn.model.plots.learning_curves import plot_learning_curves, plot_penalties
from relearn.model.preparation.prepared import SPLITS, read_image_list
from relearn.serving.releases.ledger import Entry, GateOutcome
from relearn.serving.releases.store import ReleaseStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE_FILE = Path(__file__).with_name("report.html")
REPORT_ARTIFACT = "report.html"
MAX_ERRORS = 24  # images; a page of photos of 224 × 224 pixels then has 3 MB
MAX_EXAMPLES = 20  # classes of which an image is shown


def publish_report(home: Home, result: EvaluationResult) -> str:
    """Build the report of an evaluation, log it to the run that was evaluated, and return it."""
    page = build_report(home, result)
    attach_run(home, result.query_run_id).log_text(page, REPORT_ARTIFACT)
    return page


def build_report(home: Home, result: EvaluationResult) -> str:
    """Return the report of an evaluation as an HTML page; names of classes and files are escaped in it."""
    client, evaluation = connect_existing(home), result.evaluation
    run, card = client.get_run(result.run_id), result.classifier.card
    decision = load_artifact(run.info.run_id, DECISION_FILE)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda fraction: f"{100 * fraction:.1f} %"
    return environment.from_string(TEMPLATE_FILE.read_text(encoding="utf-8")).render(
        result=result,
        card=card,
        evaluation=evaluation,
        outcome=_find_outcome(home, card.name, run.info.run_id),
        decision=GateDecision.model_validate_json(decision) if decision else None,
        robustness=_find_robustness(run.data.metrics),
        counts=_count_images(run),
        examples=_choose_examples(result),
        findings=result.prepared.findings if result.prepared.fingerprint == card.fingerprint else (),
        figures=_draw_figures(result, run, load_history(client, run.info.run_id)),
        errors=_list_errors(result),
        class_rows=evaluation.class_report.sort_values("f1", na_position="last").to_dict("records"),
        settings=run.data.params,
        origin=_describe_origin(run, result),
    )


def _find_outcome(home: Home, name: str, run_id: str) -> Entry | None:
    """Return the last decision of the gate about a run, from the ledger."""
    entries = reversed(ReleaseStore(home.releases_dir(name)).ledger.read_entries())
    decisions = (entry for entry in entries if entry.action in get_args(GateOutcome))
    return next((entry for entry in decisions if entry.run_id == run_id), None)


def _find_robustness(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the accuracy by corruption that the gate has measured, lowest first."""
    prefix = "robustness/"
    accuracies = {
        key.removeprefix(prefix).replace("_", " "): value
        for key, value in metrics.items()
        if key.startswith(prefix)
    }
    return dict(sorted(accuracies.items(), key=lambda item: item[1]))


def _count_images(run: MlflowRun) -> list[dict[Hashable, Any]]:
    """Return a row per class with the images of each split that the run learned from or was tested on."""
    images = load_image_list(run)
    if images is None:
        return []
    counts = pd.crosstab(images["class"], images["split"]).reindex(columns=SPLITS, fill_value=0)
    return counts.rename_axis("class").reset_index().to_dict("records")


def _choose_examples(result: EvaluationResult) -> list[tuple[str, str]]:
    """Return the first image of each class as a URI, with the name of the class."""
    labels, first_indices = np.unique(result.split.labels, return_index=True)
    return [
        (_to_data_uri(encode_png(result.split.images[index])), result.evaluation.classes[label])
        for label, index in zip(labels[:MAX_EXAMPLES], first_indices, strict=False)
    ]


def _draw_figures(
    result: EvaluationResult, run: MlflowRun, history: pd.DataFrame
) -> dict[str, tuple[str, str]]:
    """Draw the figures of the page."""
    evaluation, metrics = result.evaluation, run.data.metrics
    figures: dict[str, Figure] = {
        "confusion": plots.plot_confusion_matrix(evaluation.confusion_matrix, evaluation.classes),
        "calibration": plots.plot_calibration(evaluation),
    }
    if len(history):
        stop_reason = run.data.tags.get("stop_reason", "")
        figures["curves"] = plot_learning_curves(history, int(metrics["best/epoch"]), stop_reason)
    elif penalties := load_artifact(run.info.run_id, "head/penalties.csv"):
        table = pd.read_csv(io.StringIO(penalties))
        figures["curves"] = plot_penalties(table, metrics["best/inverse_penalty"])
    return {name: _split_title(figure) for name, figure in figures.items()}


def _split_title(figure: "Figure") -> tuple[str, str]:
    """Return the title of a figure as text, which wraps on a narrow screen, and the rest as an SVG image."""
    title = figure.get_suptitle().replace(r"\$", "$")
    figure.suptitle("")
    return title, _to_data_uri(render_figure(figure, "svg"), "image/svg+xml")


def _list_errors(result: EvaluationResult) -> list[dict[str, Any]]:
    """Return the most confident errors, each with its image and, where it is known, its file or row."""
    rows = result.evaluation.misclassified.head(MAX_ERRORS).to_dict("records")
    listed = read_image_list(result.prepared.folder)
    files = dict(zip(listed["hash"], listed["file"], strict=True))
    images = result.split.images[[row["index"] for row in rows]]
    return [
        {str(key): value for key, value in row.items()}
        | {"uri": _to_data_uri(encode_png(image)), "file": files.get(f"{content_hash:016x}", "")}
        for row, image, content_hash in zip(rows, images, hash_contents(images), strict=True)
    ]


def _to_data_uri(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _describe_origin(run: MlflowRun, result: EvaluationResult) -> list[tuple[str, str]]:
    """Return what made the run, each with its name, without what is unknown."""
    card, tags = result.classifier.card, run.data.tags
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    seconds = run.data.metrics.get("time/training_seconds")
    rows = {
        "run": run.info.run_id,
        "started": f"{started:%Y-%m-%d %H:%M} UTC",
        "training": f"{seconds:,.1f} s" if seconds else "",
        "device": f"{card.device}, {card.threads} threads" if card.threads else card.device,
        "parameters": f"{card.parameters:,}",
        "data": card.fingerprint,
        "code": tags.get("mlflow.source.git.commit", ""),
        "versions": f"relearn {version('relearn')}, torch {card.torch}",
        "evaluated": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return [(name, value) for name, value in rows.items() if value]
