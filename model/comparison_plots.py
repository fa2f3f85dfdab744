"""What a candidate looks like beside the champion."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from relearn.model.canvas import BLUE, GREY, VERMILION, blank, shown, tidy
from relearn.model.significance import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Shares = Mapping[str, float]

MOST = 20  # rows of a panel; of more classes those with the greatest change are shown


def beside(
    title: str,
    comparisons: Mapping[str, Comparison],
    panels: Mapping[str, tuple[Shares, Shares | None]],
) -> "Figure":
    """Differences of accuracy with their intervals, and in each of `panels` shares of both, row by row.

    A panel is (the candidate's shares, the champion's or None); shares in 0..1 by class or change.
    """
    rows = max(min(MOST, len(now)) for now, _ in panels.values())
    tall, flat = 1.4 + 0.26 * rows, 0.9 + 0.3 * len(comparisons)
    figure = blank(tall + flat if comparisons else tall, title)
    heights = (flat, tall) if comparisons else (tall,)
    grid = figure.add_gridspec(len(heights), len(panels), height_ratios=heights)
    if comparisons:
        _differences(figure.add_subplot(grid[0, :]), comparisons)
    for column, (name, (now, before)) in enumerate(panels.items()):
        shares(figure.add_subplot(grid[-1, column]), name, now, before)
    return figure


def _differences(axes: "Axes", comparisons: Mapping[str, Comparison]) -> None:
    """Points to the right of the line speak for the candidate."""
    for row, one in enumerate(comparisons.values()):
        axes.plot([100 * one.low, 100 * one.high], [row, row], color=BLUE, linewidth=2)
        axes.plot(100 * one.difference, row, "o", color=BLUE)
        axes.annotate(
            f"p = {one.p_value:.2g}", (100 * one.high, row), (8, 0), textcoords="offset points", va="center"
        )
    axes.axvline(0, color=GREY, linestyle=":")
    axes.set_yticks(range(len(comparisons)), list(comparisons))
    axes.set_ylim(-0.6, len(comparisons) - 0.4)
    axes.margins(x=0.25)
    axes.set_xlabel("accuracy, candidate minus champion, in points, with 95 % interval")
    tidy(axes)


def shares(
    axes: "Axes",
    name: str,
    now: Shares,
    before: Shares | None,
    sides: tuple[str, str] = ("candidate", "champion"),
) -> None:
    """Shares (0..1) of both `sides`, row by row; of too many rows those that differ most."""
    chosen = list(now)
    if before is not None and len(chosen) > MOST:
        chosen = sorted(chosen, key=lambda key: -abs(now[key] - before[key]))[:MOST]
    chosen = chosen[:MOST][::-1]
    places = range(len(chosen))
    if before is not None:
        for place, key in zip(places, chosen, strict=True):
            axes.plot([100 * before[key], 100 * now[key]], [place, place], color=GREY, linewidth=1)
        axes.plot([100 * before[key] for key in chosen], places, "s", color=VERMILION, label=sides[1])
    axes.plot([100 * now[key] for key in chosen], places, "o", color=BLUE, label=sides[0])
    axes.set_yticks(places, [shown(key) for key in chosen])
    axes.set_xlabel(f"{name}, %")
    if before is not None:
        axes.legend(frameon=False, fontsize="small")
    tidy(axes)
