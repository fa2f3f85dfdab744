"""Tests of the backpropagation figures: no warning, the right numbers, and no overlapping texts."""

import itertools
import math

import numpy as np
import pytest

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
from tests.model.plots.figures import line_points, save_as_png, text_boxes, text_contents

SIZES = [(2, 3, 3, 1), (4, 5, 3), (2, 2, 1), (5, 5), (1, 1), (2, 3, 3, 3, 3, 2), (1, 5, 1, 5)]


@pytest.fixture
def example() -> WorkedExample:
    return random_example((2, 3, 3, 1), steps=1, seed=2)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", [0, 2])
def test_no_texts_overlap(sizes: tuple[int, ...], phase: Phase, seed: int) -> None:
    """In every phase the texts do not overlap, are inside the figure, and no label covers a unit."""
    figure = save_as_png(plot_backprop_phase(random_example(sizes, steps=1, seed=seed), phase))
    boxes = text_boxes(figure)
    assert not any(box.overlaps(other) for box, other in itertools.combinations(boxes, 2))
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)
    assert all(page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    units = [patch.get_window_extent() for patch in figure.axes[0].patches if patch.get_width()]
    inside_unit = [any(unit.overlaps(box) for unit in units) for box in boxes]
    assert len(units) == sum(inside_unit) == sum(sizes)


def test_forward_phase_shows_weights_and_activations(example: WorkedExample) -> None:
    """Weights, biases, pre-activations, activations and the target are drawn."""
    words = text_contents(plot_backprop_phase(example, "forward"))
    updates, text = example.update_table(), "\n".join(words)
    assert set(map(format_number, updates[updates["from"] != "bias"]["before"])) <= set(words)
    for row in example.forward_table().itertuples():
        assert f"z {format_number(row.z)}\na {format_number(row.activation)}" in text
    for bias in updates[updates["from"] == "bias"]["before"]:
        assert f"b {format_number(bias)}" in text
    assert "O1, target 0" in text


def test_backward_phase_shows_deltas_and_gradients(example: WorkedExample) -> None:
    """δ of each unit and the gradient of each weight are drawn."""
    words = text_contents(plot_backprop_phase(example, "backward"))
    updates, text = example.update_table(), "\n".join(words)
    gradients = updates[updates["from"] != "bias"]["gradient"]
    assert {format_number(gradient, 3) for gradient in gradients} <= set(words)
    for row in example.delta_table().itertuples():
        assert f"δ {format_number(row.delta, 3)}" in text


def test_update_phase_shows_the_new_weights(example: WorkedExample) -> None:
    """Weights and biases after the step are drawn, with the loss before and after."""
    figure = plot_backprop_phase(example, "update")
    updates, words = example.update_table(), text_contents(figure)
    is_bias = updates["from"] == "bias"
    weights, biases = updates[~is_bias]["after"], updates[is_bias]["after"]
    assert {format_number(weight, 3) for weight in weights} <= set(words)
    assert all(f"b {format_number(bias, 3)}" in "\n".join(words) for bias in biases)
    assert "the loss goes from 0.815 to 0.434 nats" in figure.get_suptitle()


def test_inactive_units_are_gray(example: WorkedExample) -> None:
    """There are as many gray units as pre-activations at or below zero."""
    inactive = sum(int((z <= 0).sum()) for z in example.forward_pass.pre_activations[:-1])
    patches = plot_backprop_phase(example, "forward").axes[0].patches
    assert 2 == inactive == sum(patch.get_facecolor() != (1, 1, 1, 1) for patch in patches)


def test_a_layer_of_six_units_is_rejected() -> None:
    """A layer with more than 5 units is too large to read, and is rejected before drawing."""
    with pytest.raises(UserInputError, match="got a layer of 6 units, accepted: up to 5"):
        plot_backprop_phase(random_example((6, 2, 1), steps=1), "forward")


def test_relu_and_its_derivative() -> None:
    """relu is max(0, z); its derivative is 0 up to and including zero, then 1."""
    left, right = save_as_png(plot_relu()).axes
    z, activation = np.array(left.lines[0].get_data())
    assert np.maximum(z, 0).tolist() == activation.tolist()
    steps = np.array(right.lines[0].get_data()).T
    assert [[-3, 0], [0, 0], [0, 1], [3, 1]] == steps[~np.isnan(steps).any(axis=1)].tolist()
    assert "" != right.lines[1].get_markerfacecolor() != right.lines[2].get_markerfacecolor() == "white"


def test_losses_of_several_learning_rates(example: WorkedExample) -> None:
    """Each rate has a line, and the title has the best rate even if another one diverges."""
    losses = compare_learning_rates(example, [0.01, 0.5], steps=60)
    losses[1000.0] = (0.7, *[math.inf] * 30, *[math.nan] * 30)
    figure = save_as_png(plot_losses(losses, chance=math.log(2)))
    assert figure.get_suptitle().startswith("After 60 steps the learning rate 0.5 has the lowest loss, ")
    assert list(losses[0.5]) == line_points(figure.axes[0], "learning rate 0.5")[1].tolist()
    assert 1 == sum(np.isfinite(line_points(figure.axes[0], "learning rate 1000")[1].tolist()))
    assert [math.log(2)] * 2 == line_points(figure.axes[0], "chance: 0.693")[1].tolist()


def test_losses_that_all_diverge() -> None:
    """The figure is drawn with gaps."""
    save_as_png(plot_losses({1e3: (0.7, math.nan), 1e4: (0.7, math.inf)}, chance=math.log(2)))


@pytest.mark.parametrize(
    ("sizes", "shape"), [((48, 7, 5, 3), (3, 4, 4)), ((16, 1), (1, 4, 4)), ((16, 40), (1, 4, 4))]
)
def test_image_backprop_has_a_panel_per_layer(sizes: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    """Each layer has a forward and a backward panel: gray or color, 0 or 2 hidden layers, 1 or 40 outputs."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    classes = [f"class{number}" for number in range(max(2, sizes[-1]))]
    example = image_example(random_mlp(sizes), image, "class1", classes, steps=1)
    figure = save_as_png(plot_image_backprop(example, image))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert 2 * len(sizes) == len(panels)
    bars = [patch.get_width() for patch in panels[len(sizes) - 1].patches]
    assert example.forward_pass.output[0].tolist() == pytest.approx(bars)
    gradient = example.deltas[0] @ example.layers[0].weight
    expected = gradient.reshape(shape).sum(dim=0).numpy()
    np.testing.assert_allclose(expected, panels[len(sizes)].images[0].get_array())
