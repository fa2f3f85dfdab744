"""The plan of a network: a box for each layer, what flows between them, where its parameters are."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from relearn.model.canvas import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, blank, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BOXES = 24  # of a deeper network the middle is left out: nobody reads more, and pages end
PITCH, BOX = 0.82, 0.46  # inches: from box to box, height of a box
LEFT, RIGHT, BARS = 0.2, 5.6, 1.7  # inches: both ends of the boxes, longest bar

_COLOURS = {
    "Conv": BLUE,
    "Linear": VERMILION,
    "Pool": GREEN,
    "Norm": PURPLE,
    "Flatten": GREY,
    "Dropout": ORANGE,
}


def architecture(layers: pd.DataFrame, shape: tuple[int, ...], name: str = "network") -> "Figure":
    """Draw the layers from top to bottom: name, kind, activation, output shape, parameters.

    `layers` has a row for each layer with the columns name, kind, output shape (tuple or text),
    activation (or empty) and parameters; `shape` is that of one input as the network takes it.
    Colour tells the kind of a layer, which its box names too; the bars compare parameters.
    """
    total = int(layers["parameters"].sum())
    rows = _shortened(layers)
    height = PITCH * (len(rows) + 1) + 0.1
    figure = blank(height + 0.45, f"{shown(name, 40)}: {total:,} parameters in {len(layers)} layers")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 9), ylim=(-height, 0), aspect="equal")
    axes.set_axis_off()
    _box(axes, 0, "input", "", "", BLACK)
    flowing: Any = shape
    for place, row in enumerate(rows, start=1):
        _arrow(axes, place, flowing)
        if row is None:
            left_out = len(layers) - MOST_BOXES
            words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10, "color": GREY}
            flowing = layers["output shape"].iloc[-MOST_BOXES // 2 - 1]
            axes.text((LEFT + RIGHT) / 2, -PITCH * place - BOX / 2, f"… {left_out} more layers …", **words)
            continue
        _box(axes, place, row["name"], row["kind"], row["activation"], _colour(row["kind"]))
        _bar(axes, place, int(row["parameters"]), total, _colour(row["kind"]))
        flowing = row["output shape"]
    _arrow(axes, len(rows) + 1, flowing)
    return figure


def _shortened(layers: pd.DataFrame) -> list[dict[str, Any] | None]:
    """The rows to draw, None where some are left out."""
    rows: list[dict[str, Any] | None] = list(layers.to_dict("records"))  # type: ignore[arg-type]
    if len(rows) <= MOST_BOXES:
        return rows
    half = MOST_BOXES // 2
    return [*rows[:half], None, *rows[-half:]]


def _colour(kind: str) -> str:
    return next((colour for part, colour in _COLOURS.items() if part in kind), SKY)


def _box(axes: "Axes", place: int, name: str, kind: str, activation: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    top = -PITCH * place
    frame: dict[str, Any] = {"facecolor": "#f7f7f7", "edgecolor": colour, "linewidth": 1.2}
    axes.add_patch(Rectangle((LEFT, top - BOX), RIGHT - LEFT, BOX, **frame))
    axes.add_patch(Rectangle((LEFT, top - BOX), 0.1, BOX, color=colour))
    line: dict[str, Any] = {"va": "center", "color": BLACK}
    axes.text(LEFT + 0.25, top - BOX / 2, shown(name, 26), fontsize=10.5, fontweight="bold", **line)
    axes.text(LEFT + 2.75, top - BOX / 2, shown(kind, 18), fontsize=10, **line)
    if activation:
        pill = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": GREY}
        axes.text(
            RIGHT - 0.15, top - BOX / 2, shown(activation, 12), fontsize=9, ha="right", bbox=pill, **line
        )


def _arrow(axes: "Axes", place: int, flowing: Any) -> None:
    """From the box above `place` to the one at it, with the shape of what flows."""
    bottom = -PITCH * (place - 1) - BOX
    middle = (LEFT + RIGHT) / 2
    style = {"arrowstyle": "-|>", "color": BLACK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=(middle, bottom - (PITCH - BOX)), xytext=(middle, bottom), arrowprops=style)
    text = " × ".join(f"{side:,}" for side in flowing) if isinstance(flowing, tuple) else str(flowing)
    axes.text(middle + 0.12, bottom - (PITCH - BOX) / 2, text, fontsize=9.5, va="center", color=BLACK)


def _bar(axes: "Axes", place: int, parameters: int, total: int, colour: str) -> None:
    from matplotlib.patches import Rectangle

    middle = -PITCH * place - BOX / 2
    if not parameters:
        axes.text(RIGHT + 0.2, middle, "no parameters", fontsize=9.5, va="center", color=GREY)
        return
    axes.text(
        RIGHT + 0.2, middle + 0.09, f"{parameters:,} parameters", fontsize=9.5, va="center", color=BLACK
    )
    axes.add_patch(Rectangle((RIGHT + 0.2, middle - 0.17), BARS * parameters / total, 0.1, color=colour))
    share = f"{100 * parameters / total:.1f} %" if parameters >= 0.0005 * total else "< 0.1 %"
    axes.text(
        RIGHT + 0.28 + BARS * parameters / total, middle - 0.12, share, fontsize=8.5, va="center", color=GREY
    )
