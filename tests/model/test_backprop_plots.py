"""Figures of worked examples: no warning, the right numbers, and no text that covers another."""

import io
import itertools
import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from relearn.model.backprop.worked_example import (
    WorkedExample,
    compare_learning_rates,
    format_number,
    image_example,
    random_example,
    random_mlp,
)
from relearn.model.errors import UserInputError
from relearn.model.plots.backprop import (
    PHASES,
    Phase,
    plot_backprop_phase,
    plot_image_backprop,
    plot_losses,
    plot_relu,
)

SIZES = [(2, 3, 3, 1), (4, 5, 3), (2, 2, 1), (5, 5), (1, 1), (2, 3, 3, 3, 3, 2), (1, 5, 1, 5)]


def drawn(figure: Figure) -> Figure:
    """The figure after it was written as PNG, which is when matplotlib warns."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def texts(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def said(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def boxes(figure: Figure) -> list[Bbox]:
    """The bounding box of each text in pixels, without the air around its letters."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [text.get_window_extent(renderer).padded(-1, -2) for text in texts(figure)]


@pytest.fixture
def example() -> WorkedExample:
    return random_example((2, 3, 3, 1), steps=1, seed=2)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", [0, 2])
def test_no_text_covers_another(sizes: tuple[int, ...], phase: Phase, seed: int) -> None:
    """In every phase all texts are apart and inside the figure, and no label covers a unit."""
    figure = drawn(plot_backprop_phase(random_example(sizes, steps=1, seed=seed), phase))
    found = boxes(figure)
    assert not any(box.overlaps(other) for box, other in itertools.combinations(found, 2))
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in found)
    assert all(page.y0 <= box.y0 and box.y1 <= page.y1 for box in found)
    units = [patch.get_window_extent() for patch in figure.axes[0].patches if patch.get_width()]
    inside = [any(unit.overlaps(box) for unit in units) for box in found]
    assert len(units) == sum(inside) == sum(sizes)


def test_forward_shows_weights_and_activations(example: WorkedExample) -> None:
    """Weights, biases, pre-activations, activations and the target are written."""
    words = said(plot_backprop_phase(example, "forward"))
    updates, text = example.update_table(), "\n".join(words)
    assert set(map(format_number, updates[updates["from"] != "bias"]["before"])) <= set(words)
    for row in example.forward_table().itertuples():
        assert f"z {format_number(row.z)}\na {format_number(row.activation)}" in text
    for bias in updates[updates["from"] == "bias"]["before"]:
        assert f"b {format_number(bias)}" in text
    assert "O1, target 0" in text


def test_backward_shows_deltas_and_gradients(example: WorkedExample) -> None:
    """δ of each unit and the gradient of each weight are written."""
    words = said(plot_backprop_phase(example, "backward"))
    updates, text = example.update_table(), "\n".join(words)
    gradients = updates[updates["from"] != "bias"]["gradient"]
    assert {format_number(gradient, 3) for gradient in gradients} <= set(words)
    for row in example.delta_table().itertuples():
        assert f"δ {format_number(row.delta, 3)}" in text


def test_update_shows_the_new_weights(example: WorkedExample) -> None:
    """Weights and biases after the step are written, and the loss before and after."""
    figure = plot_backprop_phase(example, "update")
    updates, words = example.update_table(), said(figure)
    weights, biases = (updates[(updates["from"] == "bias") == of]["after"] for of in (False, True))
    assert {format_number(weight, 3) for weight in weights} <= set(words)
    assert all(f"b {format_number(bias, 3)}" in "\n".join(words) for bias in biases)
    assert "the loss goes from 0.815 to 0.434 nats" in figure.get_suptitle()


def test_inactive_units_are_gray(example: WorkedExample) -> None:
    """As many gray units as pre-activations at or below zero."""
    inactive = sum(int((z <= 0).sum()) for z in example.forward_pass.pre_activations[:-1])
    patches = plot_backprop_phase(example, "forward").axes[0].patches
    assert 2 == inactive == sum(patch.get_facecolor() != (1, 1, 1, 1) for patch in patches)


def test_a_layer_too_large_to_read_is_refused() -> None:
    """Six units in a layer are refused before anything is drawn."""
    with pytest.raises(UserInputError, match="got a layer of 6 units, accepted: up to 5"):
        plot_backprop_phase(random_example((6, 2, 1), steps=1), "forward")


def test_relu_and_its_derivative() -> None:
    """relu is max(0, z); its derivative is 0 up to and including zero, then 1."""
    left, right = drawn(plot_relu()).axes
    z, activation = np.array(left.lines[0].get_data())
    assert np.maximum(z, 0).tolist() == activation.tolist()
    steps = np.array(right.lines[0].get_data()).T
    assert [[-3, 0], [0, 0], [0, 1], [3, 1]] == steps[~np.isnan(steps).any(axis=1)].tolist()
    assert "" != right.lines[1].get_markerfacecolor() != right.lines[2].get_markerfacecolor() == "white"


def line(axes: Axes, label: str) -> list[float]:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_ydata(), dtype=float).tolist()


def test_losses_of_several_learning_rates(example: WorkedExample) -> None:
    """A line for each rate, the best in the title, even where one rate diverges."""
    losses = compare_learning_rates(example, [0.01, 0.5], steps=60)
    losses[1000.0] = (0.7, *[math.inf] * 30, *[math.nan] * 30)
    figure = drawn(plot_losses(losses, chance=math.log(2)))
    assert figure.get_suptitle().startswith("After 60 steps the learning rate 0.5 has the lowest loss, ")
    assert list(losses[0.5]) == line(figure.axes[0], "learning rate 0.5")
    assert 1 == sum(np.isfinite(line(figure.axes[0], "learning rate 1000")))
    assert [math.log(2)] * 2 == line(figure.axes[0], "chance: 0.693")


def test_losses_that_all_diverge() -> None:
    """The figure is drawn, with gaps."""
    drawn(plot_losses({1e3: (0.7, math.nan), 1e4: (0.7, math.inf)}, chance=math.log(2)))


@pytest.mark.parametrize(
    ("sizes", "shape"), [((48, 7, 5, 3), (3, 4, 4)), ((16, 1), (1, 4, 4)), ((16, 40), (1, 4, 4))]
)
def test_an_image_forward_and_back(sizes: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    """Gray or color, no hidden layer or two, one output or forty: a panel each, forward and back."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    classes = [f"class{number}" for number in range(max(2, sizes[-1]))]
    example = image_example(random_mlp(sizes), image, "class1", classes, steps=1)
    figure = drawn(plot_image_backprop(example, image))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert 2 * len(sizes) == len(panels)
    bars = [patch.get_width() for patch in panels[len(sizes) - 1].patches]
    assert example.forward_pass.output[0].tolist() == pytest.approx(bars)
    gradient = example.deltas[0] @ example.layers[0].weight
    expected = gradient.reshape(shape).sum(dim=0).numpy()
    np.testing.assert_allclose(expected, panels[len(sizes)].images[0].get_array())
