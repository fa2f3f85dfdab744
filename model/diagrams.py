"""A small network drawn with all its numbers, one drawing for each phase of a step of backpropagation."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from relearn.model import placement
from relearn.model.canvas import BLACK, BLUE, GREY, VERMILION, blank
from relearn.model.errors import InputError
from relearn.model.placement import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from relearn.model.explain import Explanation

Phase = Literal["forward", "backward", "update"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "update")

MOST_UNITS, MOST_LAYERS = 5, 6  # of a network drawn with numbers; more could not be read
ROW, RADIUS = 1.45, 0.37  # inches: between two units of a layer; of a unit
EDGE_SIZE = 8.5  # points, of the numbers on the edges
LETTER = 0.6 * EDGE_SIZE / 72  # inches, the mean width of a letter


@dataclass(frozen=True)
class _Numbers:
    """What one phase writes: in the head of each layer, in its units and under them, and on the edges."""

    title: str
    caption: str
    heads: list[str]
    units: list[list[str]]
    notes: list[list[str]]
    ends: list[str]  # at the right of the outputs
    edges: list[list[list[str]]]  # as values, (out, in) for each layer
    values: list[np.ndarray]  # what colour and thickness tell


def is_drawable(sizes: tuple[int, ...]) -> bool:
    """Whether `worked_network` can draw a network of these sizes with all its numbers."""
    return max(sizes) <= MOST_UNITS and len(sizes) <= MOST_LAYERS


def worked_network(explanation: "Explanation", phase: Phase) -> "Figure":
    """A small network with its numbers, in one phase of the first step.

    forward    activations in the units, biases and sums under them, weights on the edges
    backward   δ in the units, slopes of relu under them, gradients ∂L/∂w on the edges
    update     biases under the units and weights on the edges, before → after

    Raises `InputError` for more than 6 layers or 5 units in one of them.
    """
    sizes = explanation.sizes
    if not is_drawable(sizes):
        raise InputError(
            f"drawing: got {len(sizes)} layers of up to {max(sizes)} units, "
            f"accepted: up to {MOST_LAYERS} layers of up to {MOST_UNITS} units"
        )
    numbers = {"forward": _forward, "backward": _backward, "update": _update}[phase](explanation)
    crowd = max(left * right for left, right in itertools.pairwise(sizes))
    width = max(9.0, (2.8 + 0.06 * max(0, crowd - 9)) * (len(sizes) - 1) + 1.9)
    top = ROW * (max(sizes) - 1) / 2 + RADIUS + 0.65
    bottom = -ROW * (max(sizes) - 1) / 2 - RADIUS - 0.9
    figure = blank(top - bottom + 0.4, numbers.title)
    figure.set_size_inches(width, top - bottom + 0.4)
    axes = figure.add_subplot()
    axes.set(xlim=(0, width), ylim=(bottom, top), aspect="equal")
    axes.set_axis_off()
    columns = [
        [(float(x), ROW * ((size - 1) / 2 - unit)) for unit in range(size)]
        for x, size in zip(np.linspace(0.6, width - 1.3, len(sizes)), sizes, strict=True)
    ]
    for k, column in enumerate(columns):
        words: dict[str, Any] = {
            "ha": "center",
            "va": "top",
            "fontsize": 10,
            "fontweight": "bold",
            "color": GREY,
        }
        axes.text(column[0][0], top, numbers.heads[k], **words)
        _draw_units(axes, explanation, numbers, k, column)
        if k:
            _draw_edges(axes, columns[k - 1], column, numbers, k - 1, phase)
    axes.text(0.1, bottom, numbers.caption, fontsize=9, color=BLACK, va="bottom", linespacing=1.4)
    return figure


def _forward(explanation: "Explanation") -> _Numbers:
    hidden = range(1, len(explanation.sizes) - 1)
    notes = [["" for _ in explanation.names[0]]]
    for layer, z in zip(explanation.layers, explanation.passed.z, strict=True):
        biases = np.zeros(z.shape[1]) if layer.bias is None else layer.bias.numpy()
        notes.append([f"b {_n(b)}\nz {_n(value)}" for b, value in zip(biases, z[0].tolist(), strict=True)])
    return _Numbers(
        title=f"Forward pass: every unit adds up what comes in; the loss is {explanation.losses[0]:.3f}",
        caption="On an edge its weight, in a unit its activation, under it its bias b and its sum z.\n"
        "Blue is positive, orange negative, thick is large. A grey unit is silent: its z is not above 0.",
        heads=[
            "inputs",
            *(f"layer {k}: relu(z)" for k in hidden),
            f"output: {explanation.output_function}(z)",
        ],
        units=[[_n(value) for value in layer[0].tolist()] for layer in explanation.passed.activations],
        notes=notes,
        ends=[f"target {value:g}" for value in explanation.targets[0].tolist()],
        edges=[[[_n(w) for w in row] for row in layer.weight.tolist()] for layer in explanation.layers],
        values=[layer.weight.numpy() for layer in explanation.layers],
    )


def _backward(explanation: "Explanation") -> _Numbers:
    hidden = range(1, len(explanation.sizes) - 1)
    slopes = [[f"slope {int(value > 0)}" for value in z[0].tolist()] for z in explanation.passed.z[:-1]]
    errors = zip(explanation.passed.output[0].tolist(), explanation.targets[0].tolist(), strict=True)
    deltas = [[_n(value, 3) for value in delta[0].tolist()] for delta in explanation.deltas]
    return _Numbers(
        title="Backward pass: every unit gets its share δ of the error, every weight its gradient",
        caption="In a unit its δ, which is its bias's gradient too: Σ weight × δ at its right, × its slope.\n"
        "On an edge the gradient of its weight: δ at its right × activation at its left. "
        "Nothing flows through grey units.",
        heads=["inputs", *(f"layer {k}: δ" for k in hidden), "output: δ = O − Y"],
        units=[explanation.names[0], *deltas],
        notes=[["" for _ in explanation.names[0]], *slopes, ["" for _ in explanation.names[-1]]],
        ends=[f"= {_n(output, 3)} − {target:g}" for output, target in errors],
        edges=[[[_n(w, 3) for w in row] for row in slope.weight.tolist()] for slope in explanation.gradients],
        values=[slope.weight.numpy() for slope in explanation.gradients],
    )


def _update(explanation: "Explanation") -> _Numbers:
    hidden = range(1, len(explanation.sizes) - 1)
    pairs = list(zip(explanation.layers, explanation.updated, strict=True))
    notes = [["" for _ in explanation.names[0]]]
    for before, after in pairs:
        if before.bias is None or after.bias is None:
            notes.append([""] * len(before.weight))
        else:
            notes.append(_moves(before.bias.tolist(), after.bias.tolist(), "b {}", "b {}\n→ {}"))
    before_loss, after_loss = explanation.losses[:2]
    verb = "falls" if after_loss < before_loss else "rises"
    return _Numbers(
        title=f"Update: every weight moves by −{explanation.learning_rate:g} × its gradient; "
        f"the loss {verb} from {before_loss:.3f} to {after_loss:.3f}",
        caption="On an edge its weight, under a unit its bias, before → after; one number: it stays.\n"
        "Blue has gone up, orange down, thick is a large change.",
        heads=["inputs", *(f"layer {k}" for k in hidden), "output"],
        units=explanation.names,
        notes=notes,
        ends=["" for _ in explanation.names[-1]],
        edges=[
            [
                _moves(*rows, "{}", "{} → {}")
                for rows in zip(old.weight.tolist(), new.weight.tolist(), strict=True)
            ]
            for old, new in pairs
        ],
        values=[(new.weight - old.weight).numpy() for old, new in pairs],
    )


def _moves(before: list[float], after: list[float], same: str, moved: str) -> list[str]:
    both = zip(before, after, strict=True)
    return [same.format(_n(a)) if a == b else moved.format(_n(a), _n(b, 3)) for a, b in both]


def _n(value: float, decimals: int = 2) -> str:
    """A number with a real minus; exactly zero as 0."""
    return f"{value:.{decimals}f}".replace("-", "−") if value else "0"


def _draw_units(
    axes: "Axes", explanation: "Explanation", numbers: _Numbers, k: int, column: list[Place]
) -> None:
    from matplotlib.patches import Circle

    last = len(explanation.sizes) - 1
    for unit, (x, y) in enumerate(column):
        silent = 0 < k < last and explanation.passed.z[k - 1][0, unit] <= 0
        fill = "#d9d9d9" if silent else "white"
        axes.add_patch(Circle((x, y), RADIUS, facecolor=fill, edgecolor=BLACK, linewidth=1.3, zorder=4))
        middle: dict[str, Any] = {"ha": "center", "color": BLACK, "zorder": 5}
        text, name = numbers.units[k][unit], explanation.names[k][unit]
        axes.text(x, y, text, va="center", fontsize=10, fontweight="bold", **middle)
        if text != name:
            axes.text(x, y + RADIUS + 0.05, name, va="bottom", fontsize=9, **middle)
        axes.text(x, y - RADIUS - 0.06, numbers.notes[k][unit], va="top", fontsize=8.5, **middle)
        if k == last:
            axes.text(x + RADIUS + 0.08, y, numbers.ends[unit], va="center", fontsize=9.5, color=BLACK)


def _draw_edges(
    axes: "Axes", left: list[Place], right: list[Place], numbers: _Numbers, k: int, phase: Phase
) -> None:
    edges = [(start, end) for end in right for start in left]
    words = [text for row in numbers.edges[k] for text in row]
    values = numbers.values[k].flatten()
    largest = float(np.abs(values).max()) or 1.0
    notes = [
        (x + aside, y - RADIUS - below)
        for x, y in left + right
        for aside in (-0.25, 0, 0.25)
        for below in (0.12, 0.26)
    ]
    widths = [LETTER * len(word) for word in words]
    places = placement.along_edges(edges, widths, 1.5 * EDGE_SIZE / 72, RADIUS + 0.15, notes)
    for (start, end), value, text, (x, y, angle) in zip(edges, values, words, places, strict=True):
        colour = BLUE if value > 0 else VERMILION if value < 0 else "#999999"
        arrow: dict[str, Any] = {
            "arrowstyle": "-" if phase == "backward" and k == 0 else "-|>",
            "color": colour,
            "linewidth": 0.8 + 1.8 * abs(value) / largest,
            "linestyle": "-" if value else ":",
            "mutation_scale": 9,
            "shrinkA": 72 * RADIUS,
            "shrinkB": 72 * RADIUS,
        }
        tail, head = (end, start) if phase == "backward" else (start, end)
        axes.annotate("", xy=head, xytext=tail, arrowprops=arrow)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.7}
        ink = colour if value else "#555555"
        middle: dict[str, Any] = {"ha": "center", "va": "center", "rotation": angle, "zorder": 3}
        axes.text(x, y, text, fontsize=EDGE_SIZE, color=ink, bbox=box, **middle)
