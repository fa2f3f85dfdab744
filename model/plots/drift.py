"""Figure of a drift report: window of predictions against the reference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relearn.model.drift.detect import LABELS, DriftReport, DriftSample, DriftTest, format_p_value
from relearn.model.plots.comparison import plot_paired_fractions
from relearn.model.plots.style import BLUE, GRAY, SKY, VERMILION, create_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 24  # time bins of the window
MAX_DISTRIBUTIONS = 2  # distributions shown: those with the largest effect sizes


def plot_drift(
    title: str,
    report: DriftReport,
    reference: DriftSample,
    window: DriftSample,
    classes: Sequence[str],
    ages: np.ndarray,
    hours: float,
    min_effect_size: float,
) -> "Figure":
    """Plot effect sizes, volume and trend over time, the most drifted distributions, and class fractions.

    `ages` (n,) is the age in hours of each prediction of `window`, 0..`hours`. `report` needs at least one
    test of an image statistic or the confidence.
    """
    sorted_tests = sorted(report.tests, key=lambda test: -test.effect_size)
    statistic_names = [test.name for test in sorted_tests if test.name != LABELS][:MAX_DISTRIBUTIONS]
    figure = create_figure(7.6, title)
    grid = figure.add_gridspec(2, 6)
    _plot_effect_sizes(figure.add_subplot(grid[0, :3]), sorted_tests, min_effect_size)
    time_grid = grid[0, 3:].subgridspec(2, 1)
    volume_axes = figure.add_subplot(time_grid[0])
    _plot_volume(volume_axes, ages, hours)
    trend_axes = figure.add_subplot(time_grid[1], sharex=volume_axes)
    _plot_trend(trend_axes, statistic_names[0], window, reference, ages, hours)
    for index, name in enumerate(statistic_names):
        axes = figure.add_subplot(grid[1, 2 * index : 2 * index + 2])
        _plot_distribution(axes, name, reference.values(name), window.values(name))
    if LABELS not in report.insufficient_data:
        reference_fractions, window_fractions = (
            _class_fractions(sample.predicted_labels(), classes) for sample in (reference, window)
        )
        plot_paired_fractions(
            figure.add_subplot(grid[1, 4:]),
            "images per class",
            window_fractions,
            reference_fractions,
            ("window", "reference"),
        )
    return figure


def _plot_effect_sizes(axes: "Axes", sorted_tests: Sequence[DriftTest], min_effect_size: float) -> None:
    """Plot the effect size of each test, largest on top; filled dots have drifted."""
    rows = range(len(sorted_tests))[::-1]
    for row, test in zip(rows, sorted_tests, strict=True):
        color, fill_color = (VERMILION, VERMILION) if test.has_drifted else (BLUE, "white")
        axes.plot([0, test.effect_size], [row, row], color=GRAY, linewidth=1)
        axes.plot(test.effect_size, row, "o", color=color, markerfacecolor=fill_color)
        note = f"drift, {format_p_value(test.p_value)}" if test.has_drifted else format_p_value(test.p_value)
        axes.annotate(
            note, (test.effect_size, row), (8, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.axvline(min_effect_size, color=GRAY, linestyle=":")
    axes.set_yticks(rows, [test.name for test in sorted_tests])
    axes.set_xlim(0, max(1.5 * sorted_tests[0].effect_size, 2 * min_effect_size))
    axes.set_xlabel("effect size (dotted line: minimum for drift)")
    style_axes(axes)


def _plot_volume(axes: "Axes", ages: np.ndarray, hours: float) -> None:
    counts, edges = np.histogram(-ages, BINS, (-hours, 0))
    axes.bar(edges[:-1], counts, hours / BINS, align="edge", color=SKY, edgecolor="white")
    axes.set_ylabel("predictions")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(labelbottom=False)
    style_axes(axes)


def _plot_trend(
    axes: "Axes", name: str, window: DriftSample, reference: DriftSample, ages: np.ndarray, hours: float
) -> None:
    """Plot the mean of one statistic over time, which shows when the drift began."""
    values = window.values(name)
    is_finite = np.isfinite(values)
    counts, edges = np.histogram(-ages[is_finite], BINS, (-hours, 0))
    sums, _ = np.histogram(-ages[is_finite], BINS, (-hours, 0), weights=values[is_finite])
    means = np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)
    axes.plot((edges[:-1] + edges[1:]) / 2, means, "o-", color=BLUE, markersize=4)
    reference_mean = float(np.nanmean(reference.values(name)))
    axes.axhline(reference_mean, color=VERMILION, linestyle="--")
    axes.annotate(
        "reference", (0, reference_mean), (0, 3), textcoords="offset points", ha="right", fontsize=9
    )
    axes.set(xlabel="hours ago", ylabel=f"mean {name}", xlim=(-hours, 0))
    axes.margins(y=0.15)
    axes.set_xticks(np.linspace(-hours, 0, 5))
    axes.xaxis.set_major_formatter(lambda time, _: f"{abs(time):g}")
    style_axes(axes)


def _plot_distribution(
    axes: "Axes", name: str, reference_values: np.ndarray, window_values: np.ndarray
) -> None:
    """Plot both distribution functions; their largest vertical distance is the effect size."""
    for values, color, style, label in (
        (reference_values, VERMILION, "--", "reference"),
        (window_values, BLUE, "-", "window"),
    ):
        sorted_values = np.sort(values[np.isfinite(values)])
        axes.plot(sorted_values, np.linspace(0, 100, len(sorted_values)), style, color=color, label=label)
    axes.set(xlabel=name, ylabel="cumulative images (%)")
    axes.legend(frameon=False, fontsize="small")
    style_axes(axes)


def _class_fractions(labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(labels, minlength=len(classes)) / len(labels)
    return {name: float(fraction) for name, fraction in zip(classes, counts, strict=True)}
