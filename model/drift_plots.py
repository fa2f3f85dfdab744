"""What a window of answers looks like beside the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relearn.model.canvas import BLUE, GREY, SKY, VERMILION, blank, tidy
from relearn.model.comparison_plots import shares
from relearn.model.drift import LABELS, Drift, Measure, Sample, told

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 24  # of the window
CLOSE_UPS = 2  # numbers whose distributions are shown: those that are farthest away


def beside(
    title: str,
    drift: Drift,
    reference: Sample,
    window: Sample,
    classes: Sequence[str],
    ages: np.ndarray,
    hours: float,
    least_distance: float,
) -> "Figure":
    """How far each measure is, what came when, how the farthest numbers are distributed, and the labels.

    `ages` (n,) are the hours since each image of `window` was answered, 0..`hours`. Of `drift` something has
    been tested.
    """
    farthest = sorted(drift.measures, key=lambda one: -one.distance)
    numbers = [one.name for one in farthest if one.name != LABELS][:CLOSE_UPS]
    figure = blank(7.6, title)
    grid = figure.add_gridspec(2, 6)
    _distances(figure.add_subplot(grid[0, :3]), farthest, least_distance)
    times = grid[0, 3:].subgridspec(2, 1)
    volume = figure.add_subplot(times[0])
    _volume(volume, ages, hours)
    course = figure.add_subplot(times[1], sharex=volume)
    _course(course, numbers[0], window, reference, ages, hours)
    for place, name in enumerate(numbers):
        axes = figure.add_subplot(grid[1, 2 * place : 2 * place + 2])
        _distribution(axes, name, reference.number(name), window.number(name))
    if LABELS not in drift.too_few:
        before, now = (_class_shares(one.labels(), classes) for one in (reference, window))
        shares(figure.add_subplot(grid[1, 4:]), "images of each class", now, before, ("window", "reference"))
    return figure


def _distances(axes: "Axes", farthest: Sequence[Measure], least_distance: float) -> None:
    """The farthest on top; a full dot has drifted."""
    places = range(len(farthest))[::-1]
    for place, one in zip(places, farthest, strict=True):
        colour, fill = (VERMILION, VERMILION) if one.drifted else (BLUE, "white")
        axes.plot([0, one.distance], [place, place], color=GREY, linewidth=1)
        axes.plot(one.distance, place, "o", color=colour, markerfacecolor=fill)
        note = f"drift, {told(one.p_value)}" if one.drifted else told(one.p_value)
        axes.annotate(
            note, (one.distance, place), (8, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.axvline(least_distance, color=GREY, linestyle=":")
    axes.set_yticks(places, [one.name for one in farthest])
    axes.set_xlim(0, max(1.5 * farthest[0].distance, 2 * least_distance))
    axes.set_xlabel("distance from the reference; no drift left of the dots")
    tidy(axes)


def _volume(axes: "Axes", ages: np.ndarray, hours: float) -> None:
    counts, edges = np.histogram(-ages, BINS, (-hours, 0))
    axes.bar(edges[:-1], counts, hours / BINS, align="edge", color=SKY, edgecolor="white")
    axes.set_ylabel("answers")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelbottom=False)
    tidy(axes)


def _course(
    axes: "Axes", name: str, window: Sample, reference: Sample, ages: np.ndarray, hours: float
) -> None:
    """The mean of one number over time, which tells when it began."""
    now = window.number(name)
    there = np.isfinite(now)
    counts, edges = np.histogram(-ages[there], BINS, (-hours, 0))
    sums, _ = np.histogram(-ages[there], BINS, (-hours, 0), weights=now[there])
    means = np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)
    axes.plot((edges[:-1] + edges[1:]) / 2, means, "o-", color=BLUE, markersize=4)
    usual = float(np.nanmean(reference.number(name)))
    axes.axhline(usual, color=VERMILION, linestyle="--")
    axes.annotate("reference", (0, usual), (0, 3), textcoords="offset points", ha="right", fontsize=9)
    axes.set(xlabel="hours ago", ylabel=f"mean {name}", xlim=(-hours, 0))
    axes.margins(y=0.15)
    axes.set_xticks(np.linspace(-hours, 0, 5))
    axes.xaxis.set_major_formatter(lambda time, _: f"{abs(time):g}")
    tidy(axes)


def _distribution(axes: "Axes", name: str, before: np.ndarray, now: np.ndarray) -> None:
    """Both distribution functions; their greatest distance is that of the measure."""
    for values, colour, style, label in ((before, VERMILION, "--", "reference"), (now, BLUE, "-", "window")):
        known = np.sort(values[np.isfinite(values)])
        axes.plot(known, np.linspace(0, 100, len(known)), style, color=colour, label=label)
    axes.set(xlabel=name, ylabel="images with less, %")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)


def _class_shares(labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(labels, minlength=len(classes)) / len(labels)
    return {name: float(share) for name, share in zip(classes, counts, strict=True)}
