"""Report of a gate decision: Markdown and a figure, for the candidate's run and for Prefect."""

from typing import TYPE_CHECKING

import pandas as pd
from prefect.artifacts import create_markdown_artifact
from rich.text import Text

from relearn.flows.promotion.candidate_scores import ClassifierScores
from relearn.flows.rendering import Table, bullets, join_sections
from relearn.flows.results import GATE_DECISION_TAG, GateDecision
from relearn.flows.tracking.runs import Run
from relearn.model.plots.comparison import plot_comparison
from relearn.model.plots.style import ellipsize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish_gate_report(
    run: Run,
    decision: GateDecision,
    candidate: ClassifierScores,
    champion: ClassifierScores | None,
    excluded: int,
) -> None:
    """Log report, figure and metrics to the run in MLflow, and the report to Prefect.

    `excluded` is the number of reference images that candidate or champion was trained on.
    """
    markdown = to_markdown(decision, excluded)
    run.set_tags({GATE_DECISION_TAG: decision.action})
    run.log_text(markdown, "gate/decision.md")
    accuracies = _accuracy_by_corruption(candidate)
    run.log_metrics({f"robustness/{name}": accuracy for name, accuracy in accuracies.items()})
    if candidate.evaluations:
        run.log_figure(plot(decision, candidate, champion), "gate/comparison.png")
    create_markdown_artifact(markdown, key="gate-decision", description=f"Gate decision on {run.name}")


def to_markdown(decision: GateDecision, excluded: int = 0) -> str:
    """Render the report in Markdown, the decision first."""
    rows = [
        (
            name,
            f"{comparison.images:,}",
            f"{comparison.candidate_only_correct:,}",
            f"{comparison.champion_only_correct:,}",
            f"{100 * comparison.difference:+.2f}",
            f"{100 * comparison.ci_low:+.2f} to {100 * comparison.ci_high:+.2f}",
            f"{comparison.p_value:.3g}",
        )
        for name, comparison in decision.comparisons.items()
    ]
    columns = ("images", "number", "gained", "lost", "points", "95 % interval", "p")
    return join_sections(
        f"# {decision.action.upper()}",
        bullets(decision.reasons),
        Table(columns, rows, "Accuracy on the same images").to_markdown(),
        f"{excluded:,} reference images were excluded: candidate or champion was trained on them."
        if excluded
        else "",
        build_guardrails_table(decision).to_markdown(),
    )


def build_guardrails_table(decision: GateDecision) -> Table:
    """Build a table with one row per guardrail; failed ones are bold red."""
    rows = [
        (
            check.name,
            check.candidate,
            check.champion,
            check.accepted,
            "yes" if check.passed else Text("no", "bold red"),
        )
        for check in decision.checks
    ]
    return Table(("guardrail", "candidate", "champion", "accepted", "passed"), rows, "Guardrails")


def plot(decision: GateDecision, candidate: ClassifierScores, champion: ClassifierScores | None) -> "Figure":
    """Plot the differences, recall by class, and accuracy by corruption of the reference set."""
    panels = {
        "recall by class": (_recall_by_class(candidate), _recall_by_class(champion) if champion else None),
        "accuracy by corruption": (
            _accuracy_by_corruption(candidate),
            _accuracy_by_corruption(champion) if champion else None,
        ),
    }
    return plot_comparison(
        f"{decision.action.upper()}: {ellipsize(decision.reasons[0], 90)}", decision.comparisons, panels
    )


def _recall_by_class(scores: ClassifierScores) -> dict[str, float]:
    rows: pd.DataFrame = scores.evaluations["reference"].class_report.dropna()
    return dict(zip(rows["class"], rows["recall"], strict=True))


def _accuracy_by_corruption(scores: ClassifierScores) -> dict[str, float]:
    return {name: float(correct.mean()) for name, correct in scores.correctness_by_corruption.items()}
