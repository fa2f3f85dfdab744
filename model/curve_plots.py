"""How trainings went: one figure for one of them, one for several side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relearn.model import canvas
from relearn.model.canvas import BLUE, GREEN, GREY, VERMILION, blank, shown, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves(history: pd.DataFrame, best_epoch: int, stop_reason: str = "") -> "Figure":
    """Loss and accuracy over the epochs, in training and in validation.

    `history` is `Fit.table()`: one row an epoch, losses in nats per image, accuracies in 0..1. The epoch
    whose weights are kept and the last one are marked.
    """
    best = history[history["epoch"] == best_epoch].iloc[0]
    last = int(history["epoch"].iloc[-1])
    title = f"Epoch {best_epoch} of {last} is the best: validation loss {best['val_loss']:.4f}, "
    title += f"accuracy {best['val_accuracy']:.1%}"
    figure = blank(4.6, title + (f"\nStopped after epoch {last}: {stop_reason}" if stop_reason else ""))
    dots: dict[str, Any] = {"marker": "o" if last <= 30 else "", "markersize": 4}
    star: dict[str, Any] = {"color": GREEN, "markersize": 14, "label": f"best epoch: {best_epoch}"}
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        epochs, validation = history["epoch"], _measured(history, f"val_{measure}")
        train = _measured(history, f"train_{measure}")
        axes.plot(epochs, train, "--", color=BLUE, label="training", **dots)
        axes.plot(epochs, validation, color=VERMILION, label="validation", **dots)
        axes.axvline(best_epoch, color=GREEN, linestyle="-.", linewidth=1)
        axes.plot(best_epoch, validation[epochs == best_epoch], "*", **star)
        axes.axvline(last, color=GREY, linestyle=":", label=f"last epoch: {last}")
        _over_epochs(axes, measure)
    canvas.legend_below(figure, axes)
    return figure


def runs(histories: Mapping[str, pd.DataFrame]) -> "Figure":
    """Loss and accuracy of several runs over their epochs, by the name of the run.

    Each of `histories` is `Fit.table()`, or what is there of it. Validation is drawn strong, training faint.
    """
    several = f"{len(histories)} runs" if len(histories) > 1 else "one run"
    figure = blank(4.6 + 0.11 * len(histories), f"Validation of {several}, epoch by epoch (faint: training)")
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for index, (name, history) in enumerate(histories.items()):
            look: dict[str, Any] = {
                "linestyle": canvas.LINES[index % len(canvas.LINES)],
                "color": canvas.COLOURS[index % len(canvas.COLOURS)],
                "marker": "o" if len(history) == 1 else "",
            }
            epochs = history["epoch"]
            axes.plot(epochs, _measured(history, f"train_{measure}"), linewidth=1, alpha=0.4, **look)
            axes.plot(epochs, _measured(history, f"val_{measure}"), label=shown(name, 50), **look)
        _over_epochs(axes, measure)
    canvas.legend_below(figure, axes, columns=2)
    return figure


def _measured(history: pd.DataFrame, key: str) -> np.ndarray:
    return canvas.finite(history[key].to_numpy(dtype=float)) * (100 if key.endswith("accuracy") else 1)


def _over_epochs(axes: "Axes", measure: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="epoch", ylabel={"loss": "loss (nats per image)", "accuracy": "accuracy (%)"}[measure])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    tidy(axes)
