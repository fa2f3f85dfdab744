"""Diagram of a network: a box per layer, output shapes, parameter counts."""

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from relearn.model.plots.style import (
    BLACK,
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    create_figure,
    ellipsize,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BOXES = 24  # the middle layers of a deeper network are omitted: the figure would be too tall to read
BOX_PITCH, BOX_HEIGHT = 0.82, 0.46  # inches: distance between boxes, height of a box
BOX_LEFT, BOX_RIGHT, MAX_BAR_WIDTH = 0.2, 5.6, 1.7  # inches: left and right end of the boxes, longest bar

ARROW = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}

_COLORS = {
    "Conv": BLUE,
    "Linear": VERMILION,
    "Pool": GREEN,
    "Norm": PURPLE,
    "Flatten": GRAY,
    "Dropout": ORANGE,
}


def plot_architecture(layers: pd.DataFrame, input_shape: tuple[int, ...], name: str = "network") -> "Figure":
    """Draw the layers from top to bottom: name, kind, activation, output shape, parameters.

    `layers` has a row per layer with the columns name, kind, output shape (tuple or text), activation
    (or empty) and parameters; `input_shape` is the shape of one input. The color shows the kind of a layer,
    as does the text in its box. The bars show the fraction of the parameters.
    """
    from matplotlib.patches import Rectangle

    total = int(layers["parameters"].sum())
    rows = _box_rows(layers, input_shape)
    height = BOX_PITCH * len(rows) + 0.1
    figure = create_figure(
        height + 0.45, f"{ellipsize(name, 40)}: {total:,} parameters in {len(layers)} layers"
    )
    axes = figure.add_subplot()
    axes.set(xlim=(0, 9), ylim=(-height, 0), aspect="equal")
    axes.set_axis_off()
    write = partial(axes.text, va="center")
    for row_index, row in enumerate(rows):
        bottom = -BOX_PITCH * row_index - BOX_HEIGHT
        middle = bottom + BOX_HEIGHT / 2
        color = next((color for part, color in _COLORS.items() if part in row["kind"]), SKY)
        frame: dict[str, Any] = {"facecolor": "#f7f7f7", "edgecolor": color, "linewidth": 1.2}
        axes.add_patch(Rectangle((BOX_LEFT, bottom), BOX_RIGHT - BOX_LEFT, BOX_HEIGHT, **frame))
        axes.add_patch(Rectangle((BOX_LEFT, bottom), 0.12, BOX_HEIGHT, color=color))
        write(BOX_LEFT + 0.25, middle, ellipsize(row["name"], 26), fontsize=10.5, fontweight="bold")
        write(BOX_LEFT + 2.75, middle, ellipsize(row["kind"], 18), fontsize=10)
        if row["activation"]:
            pill = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": GRAY}
            write(
                BOX_RIGHT - 0.15, middle, ellipsize(row["activation"], 12), fontsize=9, ha="right", bbox=pill
            )
        if row["parameters"]:
            fraction = row["parameters"] / total
            percent = f"{fraction:.1%}" if fraction >= 0.0005 else "< 0.1%"
            axes.add_patch(
                Rectangle((BOX_RIGHT + 0.2, middle - 0.17), MAX_BAR_WIDTH * fraction, 0.1, color=color)
            )
            write(BOX_RIGHT + 0.2, middle + 0.09, f"{row['parameters']:,} parameters", fontsize=9.5)
            bar_end = BOX_RIGHT + 0.28 + MAX_BAR_WIDTH * fraction
            write(bar_end, middle - 0.12, percent, fontsize=8.5, color=GRAY)
        center, next_top = (BOX_LEFT + BOX_RIGHT) / 2, bottom - BOX_PITCH + BOX_HEIGHT
        axes.annotate("", xy=(center, next_top), xytext=(center, bottom), arrowprops=ARROW)
        shape = row["output shape"]
        text = " × ".join(f"{side:,}" for side in shape) if isinstance(shape, tuple) else str(shape)
        write(center + 0.12, (bottom + next_top) / 2, text, fontsize=9.5)
    return figure


def _box_rows(layers: pd.DataFrame, input_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a row per box: the input, the layers, and one for the omitted layers of a deep network."""
    rows: list[dict[str, Any]] = layers.to_dict("records")  # type: ignore[assignment]
    empty: dict[str, Any] = {"kind": "", "activation": "", "parameters": 0}
    if len(rows) > MAX_BOXES:
        first, last = rows[: MAX_BOXES // 2], rows[-MAX_BOXES // 2 :]
        shape_between = rows[-MAX_BOXES // 2 - 1]["output shape"]
        name = f"… {len(rows) - MAX_BOXES} more layers …"
        rows = [*first, {"name": name, "output shape": shape_between, **empty}, *last]
    return [{"name": "input", "output shape": input_shape, **empty}, *rows]
