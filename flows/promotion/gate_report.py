"""Report of a gate decision: Markdown and a figure, for the candidate's run and for Prefect."""

import textwrap
from typing import TYPE_CHECKING

import pandas as pd
from prefect.artifacts import create_markdown_artifact

from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores
from relearn.flows.results import GATE_DECISION_TAG, GateDecision
from relearn.flows.terminal.rendering import Table, bullets, join_sections
from relearn.flows.tracking.runs import Run
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.plots.comparison import plot_comparison
from relearn.model.plots.style import ellipsize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DECISION_FILE = "gate/decision.json"  # among the files of a run: the whole decision
TITLE_COLUMNS = 78  # characters of a line of a figure's title


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
    run.log_text(decision.model_dump_json(indent=2), DECISION_FILE)
    if candidate.reference:
        accuracies = _accuracy_by_corruption(candidate.reference)
        run.log_metrics({f"robustness/{name}": accuracy for name, accuracy in accuracies.items()})
        of_champion = champion.reference if champion else None
        run.log_figure(plot(decision, candidate.reference, of_champion), "gate/comparison.png")
    create_markdown_artifact(markdown, key="gate-decision", description=f"Gate decision on {run.name}")


def to_markdown(decision: GateDecision, excluded: int = 0) -> str:
    """Render the report in Markdown, the decision first."""
    return join_sections(
        f"# {decision.action.upper()}",
        bullets(decision.reasons),
        _build_comparison_table(decision.comparison).to_markdown() if decision.comparison else "",
        f"{excluded:,} reference images were excluded: candidate or champion was trained on them."
        if excluded
        else "",
        _build_guardrails_table(decision).to_markdown(),
    )


def _build_comparison_table(comparison: PairedComparison) -> Table:
    row = (
        f"{comparison.images:,}",
        f"{comparison.candidate_only_correct:,}",
        f"{comparison.champion_only_correct:,}",
        comparison.format_difference(comparison.difference, "+"),
        " to ".join(
            comparison.format_difference(end, "+") for end in (comparison.ci_low, comparison.ci_high)
        ),
        f"{comparison.p_better:.3g}",
    )
    columns = ("images", "gained", "lost", "difference", "95 % interval", "p (better)")
    return Table(columns, [row], f"{comparison.metric.replace('_', ' ').capitalize()} on the same images")


def _build_guardrails_table(decision: GateDecision) -> Table:
    """Build a table with one row per guardrail."""
    rows = [
        (
            check.name,
            check.candidate,
            check.champion,
            check.loss,
            check.accepted,
            "yes" if check.passed else "no",
        )
        for check in decision.checks
    ]
    return Table(("guardrail", "candidate", "champion", "loss", "accepted", "passed"), rows, "Guardrails")


def plot(decision: GateDecision, candidate: ReferenceScores, champion: ReferenceScores | None) -> "Figure":
    """Plot the differences, recall by class, and accuracy by corruption of the reference set."""
    panels = {
        "recall by class": (_recall_by_class(candidate), _recall_by_class(champion) if champion else None),
        "accuracy by corruption": (
            _accuracy_by_corruption(candidate),
            _accuracy_by_corruption(champion) if champion else None,
        ),
    }
    title = f"{decision.action.upper()}: {ellipsize(decision.reasons[0], 2 * TITLE_COLUMNS)}"
    return plot_comparison("\n".join(textwrap.wrap(title, TITLE_COLUMNS)), decision.comparison, panels)


def _recall_by_class(scores: ReferenceScores) -> dict[str, float]:
    rows: pd.DataFrame = scores.evaluation.class_report.dropna()
    return dict(zip(rows["class"], rows["recall"], strict=True))


def _accuracy_by_corruption(scores: ReferenceScores) -> dict[str, float]:
    return {name: float(correct.mean()) for name, correct in scores.correctness_by_corruption.items()}
