"""Figures about gradients: the slope of ReLU, the flow through a run, the loss over steps, and one picture
on its way through a network and back.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relearn.model import gradients
from relearn.model.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    blank,
    finite,
    legend_below,
    shown,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from relearn.model.explain import Explanation

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = "os^Dv<>P*X"
MOST_LINES = 10  # layers drawn as lines; of more, every so many


def relu() -> "Figure":
    """ReLU and its derivative, side by side."""
    figure = blank(
        3.6, "ReLU hands on what is positive; its slope lets the error back there and nowhere else"
    )
    left, right = figure.subplots(1, 2, sharex=True)
    z = np.linspace(-3, 3, 301)
    left.plot(z, np.maximum(z, 0), color=BLUE, linewidth=2.5)
    left.set(title="relu(z) = max(0, z)", ylabel="activation", ylim=(-0.4, 3.2))
    for start, end, height in ((-3, 0, 0), (0, 3, 1)):
        right.plot((start, end), (height, height), color=VERMILION, linewidth=2.5)
    right.plot(0, 0, "o", color=VERMILION, markersize=8)
    right.plot(0, 1, "o", markerfacecolor="white", markeredgecolor=VERMILION, markersize=8)
    right.text(0.2, 0, "at 0 itself: 0", va="center", fontsize=9.5, color=BLACK)
    right.text(-1.5, 0.06, "silent: no error passes", ha="center", fontsize=9.5, color=BLACK)
    right.text(1.5, 1.06, "active: all of it passes", ha="center", fontsize=9.5, color=BLACK)
    right.set(title="relu′(z), its derivative", ylabel="slope", ylim=(-0.15, 1.25), yticks=(0, 0.5, 1))
    for axes in (left, right):
        axes.set(xlabel="z, the sum that enters the unit")
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        tidy(axes)
    return figure


def gradient_flow(health: pd.DataFrame) -> "Figure":
    """Norms of the gradients and of δ (log scale) and the share of dead ReLUs, per layer over the epochs.

    `health` holds the rows of `gradients.measure` for one epoch or several. Values of 0 and infinite ones
    have no place on a log scale: a hole in the line, named by the title's verdict.
    """
    verdict = gradients.verdict(health)
    first = "Gradients are healthy in every layer" if verdict.healthy else verdict.warnings[0]
    more = f"\nand {len(verdict.warnings) - 1} more warnings" if len(verdict.warnings) > 1 else ""
    figure = blank(4.4, shown(first, 88) + more)
    columns = {"weight_gradient": "‖∂L/∂W‖", "delta": "‖δ‖ = ‖∂L/∂Z‖", "dead": "dead ReLU units (%)"}
    columns = {column: label for column, label in columns.items() if health[column].notna().any()}
    layers = list(dict.fromkeys(health["layer"]))
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, (column, label) in zip(panels, columns.items(), strict=True):
        for index, layer in enumerate(layers if len(layers) <= MOST_LINES else _spread(layers)):
            rows = health[health["layer"] == layer]
            values = finite(rows[column].to_numpy(dtype=float)) * (100 if column == "dead" else 1)
            if column != "dead":
                values = np.where(values > 0, values, np.nan)
            axes.plot(rows["epoch"], values, label=f"layer {shown(layer, 20)}", **_line(index))
        axes.set(xlabel="epoch", title=label)
        tidy(axes)
        _whole_epochs(axes)
        if column == "dead":
            axes.set(ylim=(-3, 103))
            limit = 100 * gradients.DEAD
            axes.axhline(limit, color=GREY, linestyle=":", linewidth=1)
            axes.text(0.98, limit + 1, "warning", transform=axes.get_yaxis_transform(), ha="right")
        else:
            _decades(axes)
    legend_below(figure, panels[0], columns=5)
    return figure


def _line(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
    }


def _decades(axes: "Axes") -> None:
    """A log scale from one power of ten to another, so that its ticks are round."""
    from matplotlib.ticker import NullFormatter

    if not any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))


def _spread(layers: list[str]) -> list[str]:
    """The first, the last and some between."""
    return [layers[round(place)] for place in np.linspace(0, len(layers) - 1, MOST_LINES)]


def _whole_epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    low, high = axes.get_xlim()
    if high - low < 1:  # a single epoch
        axes.set_xlim(low - 1, high + 1)


def losses(table: pd.DataFrame, guessing: float | None = None) -> "Figure":
    """Loss over the steps: on a log scale for one learning rate, cut off at the top for several.

    `table` has the columns learning_rate, step and loss, as `Explanation.loss_table` and `compare_rates`
    give it; `guessing` is the loss of even odds, in nats, drawn as a line to compare with.
    """
    rates, steps = sorted(table["learning_rate"].unique()), int(table["step"].max())
    ends = finite(np.array([table[table["learning_rate"] == rate]["loss"].iloc[-1] for rate in rates]))
    best = 0 if np.isnan(ends).all() else int(np.nanargmin(ends))
    if len(rates) > 1:
        title = (
            f"{len(rates)} learning rates, {steps} steps: {rates[best]:g} ends lowest, at {ends[best]:.3g}"
        )
    else:
        begin = table["loss"].iloc[0]
        title = f"{steps} steps at a learning rate of {rates[0]:g}: loss {begin:.3f} → {ends[0]:.3g}"
    figure = blank(4.4, title)
    axes = figure.add_subplot()
    for index, (rate, rows) in enumerate(table.groupby("learning_rate")):
        values = np.maximum(finite(rows["loss"].to_numpy(dtype=float)), 1e-12)
        every = max(1, steps // 20)
        axes.plot(rows["step"], values, label=f"learning rate {rate:g}", markevery=every, **_line(index))
    if guessing is not None:
        axes.axhline(guessing, color=GREY, linestyle=":", label=f"guessing: {guessing:.3f}")
    if len(rates) > 1:
        axes.set(xlabel="step", ylabel="loss (nats)", ylim=(0, 2.5 * table["loss"].iloc[0]))
    else:
        axes.set(xlabel="step", ylabel="loss (nats, log scale)")
        _decades(axes)
    tidy(axes)
    legend_below(figure, axes, columns=3)
    return figure


def picture_passage(explanation: "Explanation", image: np.ndarray, outputs: Sequence[str]) -> "Figure":
    """One picture through a network, forward above and backward below; blue is positive, orange negative.

    `image` uint8 (channels, height, width), `outputs` the names of the outputs. Above: the picture, the
    activations of the hidden layers, the probabilities. Below: the error O − Y, δ of the hidden layers,
    and what would come to the pixels, δ_1 W_1: where it is blue more light would raise the loss.
    """
    passed, hidden = explanation.passed, range(len(explanation.layers) - 1)
    probability = np.exp(-explanation.losses[0])
    figure = blank(5.4, f"The true class gets a probability of {probability:.3f}, and the error flows back")
    above, below = figure.subplots(2, len(hidden) + 2, width_ratios=[1.0] * (len(hidden) + 1) + [1.3])
    above[0].imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
    above[0].set(xticks=(), yticks=())
    above[0].set_title("the picture", fontsize=10)
    back = (explanation.deltas[0] @ explanation.layers[0].weight)[0].numpy()
    if back.size == image.size:
        _map(below[0], back.reshape(image.shape).sum(axis=0), "∂L/∂x: back at the pixels")
    else:
        _map(below[0], _grid(back), f"back at {back.size:,} features")
    for k in hidden:
        activations, deltas = passed.activations[k + 1][0].numpy(), explanation.deltas[k][0].numpy()
        _map(above[k + 1], _grid(activations), f"layer {k + 1}: {activations.size:,} activations")
        _map(below[k + 1], _grid(deltas), f"layer {k + 1}: δ")
    output, target = passed.output[0].numpy(), explanation.targets[0].numpy()
    _bars(above[-1], output, outputs, "output O, and the target Y as a line")
    above[-1].vlines(target, np.arange(len(target)) - 0.4, np.arange(len(target)) + 0.4, color=BLACK)
    _bars(below[-1], output - target, outputs, "output: δ = O − Y")
    above[0].set_ylabel("forward →", fontsize=11, fontweight="bold", color=GREY)
    below[0].set_ylabel("← backward", fontsize=11, fontweight="bold", color=GREY)
    return figure


def _grid(values: np.ndarray) -> np.ndarray:
    """Values in rows of a nearly square picture, filled up with NaN."""
    side = int(np.ceil(np.sqrt(values.size)))
    rows = -(-values.size // side)
    grid = np.full(rows * side, np.nan)
    grid[: values.size] = values
    return grid.reshape(rows, side)


def _map(axes: "Axes", values: np.ndarray, title: str) -> None:
    """Signed values as colours, white at zero; grey where there is none."""
    from matplotlib.colors import LinearSegmentedColormap

    signed = bool((values < 0).any())
    shades = [VERMILION, "white", BLUE] if signed else ["white", BLUE]
    colours = LinearSegmentedColormap.from_list("signed", shades).with_extremes(bad="#dddddd")
    largest = float(np.nanmax(np.abs(values))) or 1.0
    lowest = -largest if signed else 0.0
    picture = axes.imshow(values, cmap=colours, vmin=lowest, vmax=largest, interpolation="nearest")
    axes.set(xticks=(), yticks=())
    axes.set_title(title, fontsize=10)
    bar = axes.figure.colorbar(picture, ax=axes, orientation="horizontal", shrink=0.8, pad=0.03)
    bar.ax.tick_params(labelsize=8)
    bar.ax.locator_params(nbins=3)


def _bars(axes: "Axes", values: np.ndarray, names: Sequence[str], title: str) -> None:
    places = np.arange(len(values))
    axes.barh(places, values, color=[BLUE if value > 0 else VERMILION for value in values])
    if len(values) <= 30:
        axes.set_yticks(places, [shown(name) for name in names])
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=5)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_title(title, fontsize=10)
    tidy(axes)
