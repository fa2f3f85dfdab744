"""Figures that compare a candidate with the champion."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.plots.style import BLUE, GRAY, VERMILION, create_figure, ellipsize, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Fractions = Mapping[str, float]

MAX_ROWS = 20  # per panel; with more classes, those with the largest change are shown


def plot_comparison(
    title: str,
    comparison: PairedComparison | None,
    panels: Mapping[str, tuple[Fractions, Fractions | None]],
) -> "Figure":
    """Plot the difference with its interval, and below one panel of paired fractions per metric.

    A panel is (fractions of the candidate, fractions of the champion or None), in 0..1 by class or
    corruption.
    """
    rows = max(min(MAX_ROWS, len(candidate)) for candidate, _ in panels.values())
    panel_height, interval_height = 1.4 + 0.26 * rows, 1.2
    figure = create_figure(panel_height + interval_height if comparison else panel_height, title)
    heights = (interval_height, panel_height) if comparison else (panel_height,)
    grid = figure.add_gridspec(len(heights), len(panels), height_ratios=heights)
    if comparison:
        _plot_difference(figure.add_subplot(grid[0, :]), comparison)
    for column, (name, (candidate, champion)) in enumerate(panels.items()):
        plot_paired_fractions(figure.add_subplot(grid[-1, column]), name, candidate, champion)
    return figure


def _plot_difference(axes: "Axes", comparison: PairedComparison) -> None:
    """Plot the difference with its interval; right of the zero line the candidate is better."""
    scale, unit = (1, "nats") if comparison.metric == "log_loss" else (100, "percentage points")
    axes.plot([scale * comparison.ci_low, scale * comparison.ci_high], [0, 0], color=BLUE, linewidth=2)
    axes.plot(scale * comparison.difference, 0, "o", color=BLUE)
    axes.annotate(
        f"p = {comparison.p_better:.2g}",
        (scale * comparison.ci_high, 0),
        (8, 0),
        textcoords="offset points",
        va="center",
    )
    axes.axvline(0, color=GRAY, linestyle=":")
    axes.set_yticks([])
    axes.margins(x=0.25)
    name = comparison.metric.replace("_", " ")
    axes.set_xlabel(f"gain of the candidate over the champion in {name} ({unit}, 95 % interval)")
    style_axes(axes)


def plot_paired_fractions(
    axes: "Axes",
    name: str,
    current: Fractions,
    baseline: Fractions | None,
    side_names: tuple[str, str] = ("candidate", "champion"),
) -> None:
    """Plot two fractions (0..1) per row; beyond `MAX_ROWS` the rows that differ most."""
    keys = list(current)
    if baseline is not None and len(keys) > MAX_ROWS:
        keys = sorted(keys, key=lambda key: -abs(current[key] - baseline[key]))[:MAX_ROWS]
    keys = keys[:MAX_ROWS][::-1]
    rows = range(len(keys))
    if baseline is not None:
        for row, key in zip(rows, keys, strict=True):
            axes.plot([100 * baseline[key], 100 * current[key]], [row, row], color=GRAY, linewidth=1)
        axes.plot([100 * baseline[key] for key in keys], rows, "s", color=VERMILION, label=side_names[1])
    axes.plot([100 * current[key] for key in keys], rows, "o", color=BLUE, label=side_names[0])
    axes.set_yticks(rows, [ellipsize(key) for key in keys])
    axes.set_xlabel(f"{name} (%)")
    if baseline is not None:
        axes.legend(frameon=False, fontsize="small")
    style_axes(axes)
