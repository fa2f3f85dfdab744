"""How a verdict is told: a page and a figure, kept with the candidate's run and with the flow."""

from typing import TYPE_CHECKING

import pandas as pd
from prefect.artifacts import create_markdown_artifact
from rich.text import Text

from relearn.flows import rendering
from relearn.flows.promotion.candidate_scores import ClassifierScores
from relearn.flows.rendering import Table, bullets
from relearn.flows.results import GATE_DECISION_TAG, GateDecision
from relearn.flows.tracking.runs import Run
from relearn.model.plots.comparison import plot_comparison
from relearn.model.plots.style import ellipsize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish(
    run: Run,
    verdict: GateDecision,
    candidate: ClassifierScores,
    champion: ClassifierScores | None,
    left_out: int,
) -> None:
    """Keep page, figure and numbers with the run in MLflow, the page with the flow in Prefect.

    `left_out` is the number of reference images that were not used, since one side has learned from them.
    """
    told = page(verdict, left_out)
    run.set_tags({GATE_DECISION_TAG: verdict.action})
    run.log_text(told, "gate/verdict.md")
    run.log_metrics(
        {f"robustness/{name}": float(right.mean()) for name, right in candidate.correct_by_corruption.items()}
    )
    if candidate.evaluations:
        run.log_figure(figure(verdict, candidate, champion), "gate/comparison.png")
    create_markdown_artifact(told, key="verdict", description=f"What the gate said of {run.name}")


def page(verdict: GateDecision, left_out: int = 0) -> str:
    """Markdown, the verdict first."""
    rows = [
        (
            name,
            f"{one.images:,}",
            f"{one.candidate_only_correct:,}",
            f"{one.champion_only_correct:,}",
            f"{100 * one.difference:+.2f}",
            f"{100 * one.ci_low:+.2f} to {100 * one.ci_high:+.2f}",
            f"{one.p_value:.3g}",
        )
        for name, one in verdict.comparisons.items()
    ]
    columns = ("images", "number", "gained", "lost", "points", "95 % interval", "p")
    return rendering.page(
        f"# {verdict.action.upper()}",
        bullets(verdict.reasons),
        Table(columns, rows, "Accuracy on the same images").to_markdown(),
        f"{left_out:,} reference images were left out: one side has learned from them." if left_out else "",
        guardrails(verdict).to_markdown(),
    )


def guardrails(verdict: GateDecision) -> Table:
    """One row a guardrail; those that do not hold stand out."""
    rows = [
        (
            check.name,
            check.candidate,
            check.champion,
            check.accepted,
            "yes" if check.passed else Text("no", "bold red"),
        )
        for check in verdict.checks
    ]
    return Table(("guardrail", "candidate", "champion", "accepted", "holds"), rows, "Guardrails")


def figure(verdict: GateDecision, candidate: ClassifierScores, champion: ClassifierScores | None) -> "Figure":
    """The differences, recall by class, and accuracy by change of the reference images."""
    panels = {
        "recall by class": (_recalls(candidate), _recalls(champion) if champion else None),
        "right when changed": (_slices(candidate), _slices(champion) if champion else None),
    }
    return plot_comparison(
        f"{verdict.action.upper()}: {ellipsize(verdict.reasons[0], 90)}", verdict.comparisons, panels
    )


def _recalls(measured: ClassifierScores) -> dict[str, float]:
    rows: pd.DataFrame = measured.evaluations["reference"].class_report.dropna()
    return dict(zip(rows["class"], rows["recall"], strict=True))


def _slices(measured: ClassifierScores) -> dict[str, float]:
    return {name: float(right.mean()) for name, right in measured.correct_by_corruption.items()}
