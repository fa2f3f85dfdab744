"""Learning curves of one training run and of several runs; validation curve of a head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relearn.model.plots import style
from relearn.model.plots.style import (
    BLUE,
    GRAY,
    GREEN,
    VERMILION,
    add_legend_below,
    create_figure,
    ellipsize,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_learning_curves(history: pd.DataFrame, best_epoch: int, stop_reason: str = "") -> "Figure":
    """Plot loss and accuracy over the epochs, for training and validation.

    `history` is `FitResult.to_frame()`: one row per epoch, losses in nats per image, accuracies in 0..1. The
    best epoch, whose weights are kept, and the last epoch are marked.
    """
    best_row = history[history["epoch"] == best_epoch].iloc[0]
    last_epoch = int(history["epoch"].iloc[-1])
    title = f"Best epoch: {best_epoch} of {last_epoch}, validation loss {best_row['val_loss']:.4f}, "
    title += f"accuracy {best_row['val_accuracy']:.1%}"
    figure = create_figure(
        4.6, title + (f"\nStopped after epoch {last_epoch}: {stop_reason}" if stop_reason else "")
    )
    dots: dict[str, Any] = {"marker": "o" if last_epoch <= 30 else "", "markersize": 4}
    star: dict[str, Any] = {"color": GREEN, "markersize": 14, "label": f"best epoch: {best_epoch}"}
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        epochs, validation = history["epoch"], _extract_values(history, f"val_{metric}")
        train = _extract_values(history, f"train_{metric}")
        axes.plot(epochs, train, "--", color=BLUE, label="training", **dots)
        axes.plot(epochs, validation, color=VERMILION, label="validation", **dots)
        axes.axvline(best_epoch, color=GREEN, linestyle="-.", linewidth=1)
        axes.plot(best_epoch, validation[epochs == best_epoch], "*", **star)
        axes.axvline(last_epoch, color=GRAY, linestyle=":", label=f"last epoch: {last_epoch}")
        _style_epoch_axes(axes, metric)
    style.add_legend_below(figure, axes)
    return figure


def plot_runs(histories: Mapping[str, pd.DataFrame]) -> "Figure":
    """Plot loss and accuracy of several runs over their epochs, by run name.

    Each of `histories` is `FitResult.to_frame()`; the run may be in progress. Training curves are faint.
    """
    run_count = f"{len(histories)} runs" if len(histories) > 1 else "1 run"
    figure = create_figure(4.6 + 0.11 * len(histories), f"Validation curves of {run_count} (faint: training)")
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for index, (name, history) in enumerate(histories.items()):
            line_style: dict[str, Any] = {
                "linestyle": style.LINE_STYLES[index % len(style.LINE_STYLES)],
                "color": style.COLORS[index % len(style.COLORS)],
                "marker": "o" if len(history) == 1 else "",
            }
            epochs = history["epoch"]
            axes.plot(
                epochs, _extract_values(history, f"train_{metric}"), linewidth=1, alpha=0.4, **line_style
            )
            axes.plot(
                epochs, _extract_values(history, f"val_{metric}"), label=ellipsize(name, 50), **line_style
            )
        _style_epoch_axes(axes, metric)
    style.add_legend_below(figure, axes, columns=2)
    return figure


def _extract_values(history: pd.DataFrame, key: str) -> np.ndarray:
    return style.mask_non_finite(history[key].to_numpy(dtype=float)) * (
        100 if key.endswith("accuracy") else 1
    )


def _style_epoch_axes(axes: "Axes", metric: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel={"loss": "loss (nats per image)", "accuracy": "accuracy (%)"}[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style_axes(axes)


def plot_penalties(penalties: pd.DataFrame, chosen: float) -> "Figure":
    """Plot loss and accuracy on held-out images over the inverse penalty `c`; `chosen` is marked.

    `penalties` is `HeadResult.to_frame()`: one row per penalty, losses in nats per image, accuracies in 0..1.
    """
    best = penalties[penalties["c"] == chosen].iloc[0]
    figure = create_figure(
        4.6, f"Cross-validation: C {chosen:g}, loss {best['loss']:.4f}, accuracy {best['accuracy']:.1%}"
    )
    labels = {"loss": "loss (nats per image)", "accuracy": "accuracy (%)"}
    for axes, metric in zip(figure.subplots(1, 2), labels, strict=True):
        factor = 100 if metric == "accuracy" else 1
        axes.plot(penalties["c"], factor * penalties[metric], "o-", color=VERMILION, label="held-out images")
        axes.plot(chosen, factor * best[metric], "*", color=GREEN, markersize=14, label=f"C {chosen:g}")
        axes.set(xscale="log", xlabel="C, inverse strength of the penalty", ylabel=labels[metric])
        style_axes(axes)
    add_legend_below(figure, axes)
    return figure
