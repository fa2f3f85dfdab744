"""Figures of worked examples: the phases of backpropagation, one image, learning rates, ReLU."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from relearn.model.backprop.worked_example import WorkedExample, format_number
from relearn.model.errors import UserInputError
from relearn.model.plots import style
from relearn.model.plots.style import BLACK, BLUE, GRAY, VERMILION, create_figure, ellipsize, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Phase = Literal["forward", "backward", "update"]
PHASES: tuple[Phase, ...] = ("forward", "backward", "update")

MAX_UNITS = 5  # per layer of a diagram
UNIT_PITCH, BOX_WIDTH, BOX_HEIGHT = 1.2, 1.1, 0.9  # inches: distance between units; size of a unit
LABEL_WIDTH = 0.4  # inches: half of a label plus padding


def plot_backprop_phase(example: WorkedExample, phase: Phase) -> "Figure":
    """Draw a network with the numbers of one phase of the first step.

    forward     bias b, pre-activation z and activation a of each unit, each weight
    backward    activation a and δ of each unit, gradient of each weight
    update      each bias and weight after the step, colored by its change

    Raises `UserInputError` if a layer has more than 5 units.
    """
    if max(example.sizes) > MAX_UNITS:
        raise UserInputError(
            f"diagram: got a layer of {max(example.sizes)} units, accepted: up to {MAX_UNITS}"
        )
    z, activations = example.forward_pass.pre_activations, example.forward_pass.activations
    first, second, rate = *example.losses[:2], f"{example.learning_rate:g}"
    signs = "Blue: positive, orange: negative, dotted: 0"
    units: dict[str, Sequence[Tensor | None]]  # values (…, units) in each layer by symbol
    if phase == "forward":
        title = f"Forward pass: the loss is {first:.3f} nats"
        caption = "In a unit: z = Σ weight · a + bias b, and a = relu(z). On an edge: its weight."
        units = {"b": [None, *(layer.bias for layer in example.layers)], "z": [None, *z], "a": activations}
        edges = numbers = [layer.weight for layer in example.layers]
    elif phase == "backward":
        title = "Backward pass: δ propagates back through the weights; inactive units block it"
        caption = "In a unit: δ = relu′(z) · Σ weight · δ of the next layer; at the output δ = a − target.\n"
        caption += "On an edge: the gradient of its weight = a at its left · δ at its right."
        units = {"a": activations, "δ": [None, *example.deltas]}
        edges = numbers = [gradient.weight for gradient in example.gradients]
    else:
        title = f"Update: the loss goes from {first:.3f} to {second:.3f} nats"
        caption = f"In a unit: the new bias = b − {rate} · δ. On an edge: the new weight = "
        caption += f"weight − {rate} · gradient."
        signs = "Blue: increased, orange: decreased, dotted: unchanged"
        units = {"b": [None, *(layer.bias for layer in example.updated)]}
        numbers = [layer.weight for layer in example.updated]
        edges = [new - old.weight for new, old in zip(numbers, example.layers, strict=True)]
    decimals = 2 if phase == "forward" else 3
    names = example.unit_names
    targets = zip(names[-1], example.targets[0].tolist(), strict=True)
    names[-1] = [f"{name}, target {target:g}" for name, target in targets]
    figure, columns = _new_diagram(example, title, f"{caption}\n{signs}. Gray unit: inactive, z ≤ 0.")
    axes = figure.axes[0]
    for k, column in enumerate(columns):
        for unit, middle in enumerate(column):
            lines = [names[k][unit]]
            for symbol, values in units.items():
                if (layer := values[k]) is not None:
                    lines.append(f"{symbol} {format_number(layer.flatten()[unit].item(), decimals)}")
            inactive = 0 < k < len(columns) - 1 and z[k - 1][0, unit] <= 0
            _draw_unit(axes, middle, "\n".join(lines), "#d9d9d9" if inactive else "white")
        if k:
            labels = [format_number(number, decimals) for number in numbers[k - 1].flatten().tolist()]
            _draw_edges(axes, columns[k - 1], column, edges[k - 1], labels, phase == "backward")
    return figure


def _new_diagram(example: WorkedExample, title: str, caption: str) -> "tuple[Figure, list[np.ndarray]]":
    """Return a figure with axes in inches, and for each layer the centers (units, 2) of its units."""
    even = 7.5 / len(example.layers) - BOX_WIDTH  # in a figure 9 inches wide
    gaps = [max(even, LABEL_WIDTH * (size + 1)) for size in example.sizes[:-1]]
    layer_x = np.cumsum([0.75, *(BOX_WIDTH + gap for gap in gaps)])
    width, height = max(9.0, layer_x[-1] + 0.75), UNIT_PITCH * max(example.sizes)
    figure = create_figure(height + 1.7, title)
    figure.set_size_inches(width, height + 1.7)
    axes = figure.add_subplot()
    axes.set(xlim=(0, width), ylim=(-height / 2 - 0.9, height / 2 + 0.3), aspect="equal")
    axes.set_axis_off()
    axes.text(0.2, -height / 2 - 0.1, caption, fontsize=10, color=BLACK, va="top", linespacing=1.5)
    hidden = [f"hidden layer {k}" for k in range(1, len(gaps))]
    for x, head in zip(layer_x, ["inputs", *hidden, f"output: {example.output_function}"], strict=True):
        axes.text(x, height / 2 + 0.1, head, ha="center", fontsize=10, fontweight="bold", color=GRAY)
    return figure, [
        np.array([(x, UNIT_PITCH * ((size - 1) / 2 - unit)) for unit in range(size)])
        for x, size in zip(layer_x, example.sizes, strict=True)
    ]


def _draw_unit(axes: "Axes", middle: np.ndarray, text: str, color: str) -> None:
    from matplotlib.patches import Rectangle

    x, y = middle
    corner = (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2)
    axes.add_patch(Rectangle(corner, BOX_WIDTH, BOX_HEIGHT, facecolor=color, edgecolor=BLACK))
    axes.text(x, y, text, ha="center", va="center", fontsize=10, color=BLACK)


def _draw_edges(
    axes: "Axes", left: np.ndarray, right: np.ndarray, values: Tensor, labels: list[str], backward: bool
) -> None:
    """Draw an arrow with its label for each of `values` (right, left).

    With m units at the left, each label is at m / (m + 1) of its edge. There the edges between two layers
    are evenly spaced, UNIT_PITCH / (m + 1) apart, for any number of units at the right, so labels never
    overlap.
    """
    fraction = len(left) / (len(left) + 1)
    half_box = np.array((BOX_WIDTH / 2, 0))
    edges = [(start + half_box, end - half_box) for end in right for start in left]
    largest = values.abs().max().item() or 1.0
    for (start, end), value, label in zip(edges, values.flatten().tolist(), labels, strict=True):
        color = BLUE if value > 0 else VERMILION if value < 0 else GRAY
        arrow: dict[str, Any] = {"arrowstyle": "<|-" if backward else "-|>", "color": color}
        arrow |= {"linestyle": "-" if value else ":", "linewidth": 0.8 + 2 * abs(value) / largest}
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0})
        x, y = (1 - fraction) * start + fraction * end
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        axes.text(x, y, label, ha="center", va="center", fontsize=9, color=color, bbox=box, zorder=5)


def plot_image_backprop(example: WorkedExample, image: np.ndarray) -> "Figure":
    """Draw the forward pass of an image (top) and its backward pass (bottom).

    `image` is uint8 (channels, height, width). Top: image, activations of the hidden layers, output. Bottom:
    gradient δ_1 W_1 of the pixels or features, δ of the hidden layers and of the output. Blue is positive,
    orange negative.
    """
    figure = create_figure(5.4, f"The true class has a probability of {np.exp(-example.losses[0]):.3f}")
    hidden = len(example.layers) - 1
    top, bottom = figure.subplots(2, hidden + 2, width_ratios=[1.0] * (hidden + 1) + [1.3])
    top[0].imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
    top[0].set_title("image", fontsize=10)
    gradient = (example.deltas[0] @ example.layers[0].weight)[0].numpy()
    if gradient.size == image.size:
        _draw_map(bottom[0], gradient.reshape(image.shape).sum(axis=0), "∂L/∂pixel")
    else:
        _draw_map(bottom[0], _square(gradient), f"∂L/∂a of {gradient.size:,} features")
    for k in range(hidden):
        activations = example.forward_pass.activations[k + 1][0].numpy()
        _draw_map(top[k + 1], _square(activations), f"layer {k + 1}: a of {activations.size:,} units")
        _draw_map(bottom[k + 1], _square(example.deltas[k][0].numpy()), f"layer {k + 1}: δ")
    output, target = example.forward_pass.output[0].numpy(), example.targets[0].numpy()
    positions = np.arange(len(output))
    panels = {"output (line: target)": output, "δ = output − target": output - target}
    for axes, (title, values) in zip((top[-1], bottom[-1]), panels.items(), strict=True):
        axes.barh(positions, values, color=[BLUE if value > 0 else VERMILION for value in values])
        axes.set_yticks(
            positions,
            [ellipsize(name) for name in example.unit_names[-1]] if len(output) <= 30 else [""] * len(output),
        )
        axes.invert_yaxis()
        axes.set_title(title, fontsize=10)
        axes.locator_params(axis="x", nbins=4)  # δ of a confident output is tiny, and its tick labels wide
        axes.ticklabel_format(axis="x", scilimits=(-3, 3))
        style_axes(axes)
    top[-1].vlines(target, positions - 0.4, positions + 0.4, color=BLACK)
    for axes in (*top[:-1], *bottom[:-1]):
        axes.set(xticks=(), yticks=())
    top[0].set_ylabel("forward →", fontsize=11, fontweight="bold", color=GRAY)
    bottom[0].set_ylabel("← backward", fontsize=11, fontweight="bold", color=GRAY)
    return figure


def _square(values: np.ndarray) -> np.ndarray:
    """Arrange values in the rows of a nearly square array, the rest NaN."""
    side = int(np.ceil(np.sqrt(values.size)))
    rows = -(-values.size // side)
    return np.append(values, np.full(rows * side - values.size, np.nan)).reshape(rows, side)


def _draw_map(axes: "Axes", values: np.ndarray, title: str) -> None:
    """Show values as colors: orange negative, white 0, blue positive; gray where NaN."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("signed", [VERMILION, "white", BLUE]).with_extremes(
        bad="#dddddd"
    )
    limit = float(np.nanmax(np.abs(values))) or 1.0
    colored = axes.imshow(values, cmap=colors, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    bar = axes.figure.colorbar(colored, ax=axes, orientation="horizontal", shrink=0.8, pad=0.03)
    bar.ax.tick_params(labelsize=8)
    bar.ax.locator_params(nbins=3)


def plot_losses(losses: Mapping[float, Sequence[float]], chance: float) -> "Figure":
    """Plot the loss in nats over the steps per learning rate; `chance` is the loss of uniform predictions."""
    last_losses = {
        rate: np.nan_to_num(values[-1], nan=np.inf, posinf=np.inf) for rate, values in losses.items()
    }
    best = min(last_losses, key=last_losses.__getitem__)
    steps = len(losses[best]) - 1
    title = (
        f"After {steps} steps the learning rate {best:g} has the lowest loss, {last_losses[best]:.3g} nats"
    )
    figure = create_figure(4.4, title)
    axes = figure.add_subplot()
    for index, (rate, values) in enumerate(losses.items()):
        line_style: Any = {"color": style.COLORS[index % 7], "linestyle": style.LINE_STYLES[index % 4]}
        axes.plot(style.mask_non_finite(np.array(values)), label=f"learning rate {rate:g}", **line_style)
    axes.axhline(chance, color=GRAY, linewidth=0.8, label=f"chance: {chance:.3f}")
    axes.set(xlabel="step", ylabel="loss (nats)", ylim=(0, 2.5 * next(iter(losses.values()))[0]))
    style_axes(axes)
    style.add_legend_below(figure, axes, columns=3)
    return figure


def plot_relu() -> "Figure":
    """Plot ReLU and its derivative."""
    figure = create_figure(
        3.6, "ReLU passes positive values; its derivative passes δ back for the same values"
    )
    left, right = figure.subplots(1, 2, sharex=True)
    left.plot((-3, 0, 3), (0, 0, 3), color=BLUE, linewidth=2.5)
    left.set(title="relu(z) = max(0, z)", ylabel="activation")
    right.plot((-3, 0, np.nan, 0, 3), (0, 0, np.nan, 1, 1), color=VERMILION, linewidth=2.5)
    right.plot(0, 0, "o", color=VERMILION, markersize=8)
    right.plot(0, 1, "o", markerfacecolor="white", markeredgecolor=VERMILION, markersize=8)
    right.set(title="relu′(z): 0 for z ≤ 0, 1 for z > 0", ylabel="derivative", yticks=(0, 0.5, 1))
    for axes in (left, right):
        axes.set(xlabel="pre-activation z")
        style_axes(axes)
    return figure
