"""How a verdict is told: a page and a figure, kept with the candidate's run and with the flow."""

from typing import TYPE_CHECKING

import pandas as pd
from prefect.artifacts import create_markdown_artifact
from rich.text import Text

from relearn.flows import rendering
from relearn.flows.measured import Measured
from relearn.flows.rendering import Table, bullets
from relearn.flows.results import VERDICT, Verdict
from relearn.flows.tracking import Run
from relearn.model.canvas import shown
from relearn.model.comparison_plots import beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish(
    run: Run, verdict: Verdict, candidate: Measured, champion: Measured | None, left_out: int
) -> None:
    """Keep page, figure and numbers with the run in MLflow, the page with the flow in Prefect.

    `left_out` is the number of reference images that were not used, since one side has learned from them.
    """
    told = page(verdict, left_out)
    run.tags({VERDICT: verdict.action})
    run.text(told, "gate/verdict.md")
    run.metrics({f"robustness/{name}": float(right.mean()) for name, right in candidate.slices.items()})
    if candidate.evaluations:
        run.figure(figure(verdict, candidate, champion), "gate/comparison.png")
    create_markdown_artifact(told, key="verdict", description=f"What the gate said of {run.name}")


def page(verdict: Verdict, left_out: int = 0) -> str:
    """Markdown, the verdict first."""
    rows = [
        (
            name,
            f"{one.images:,}",
            f"{one.gained:,}",
            f"{one.lost:,}",
            f"{100 * one.difference:+.2f}",
            f"{100 * one.low:+.2f} to {100 * one.high:+.2f}",
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


def guardrails(verdict: Verdict) -> Table:
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


def figure(verdict: Verdict, candidate: Measured, champion: Measured | None) -> "Figure":
    """The differences, recall by class, and accuracy by change of the reference images."""
    panels = {
        "recall by class": (_recalls(candidate), _recalls(champion) if champion else None),
        "right when changed": (_slices(candidate), _slices(champion) if champion else None),
    }
    return beside(f"{verdict.action.upper()}: {shown(verdict.reasons[0], 90)}", verdict.comparisons, panels)


def _recalls(measured: Measured) -> dict[str, float]:
    rows: pd.DataFrame = measured.evaluations["reference"].per_class.dropna()
    return dict(zip(rows["class"], rows["recall"], strict=True))


def _slices(measured: Measured) -> dict[str, float]:
    return {name: float(right.mean()) for name, right in measured.slices.items()}
