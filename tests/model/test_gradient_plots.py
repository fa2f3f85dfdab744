"""The figures about gradients draw without a warning and hold the numbers they are about."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relearn.model import gradient_plots
from relearn.model.examples import compare_rates, picture_example, untrained, worked_example
from relearn.model.gradients import COLUMNS


def drawn(figure: Figure) -> Figure:
    """The figure after it was written as PNG, which is when matplotlib finds fault with it."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def line(axes: Axes, label: str) -> list[float]:
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_ydata(), dtype=float).tolist()


def health(epochs: int, layers: int, **values: float) -> pd.DataFrame:
    row = {
        "delta": 0.1,
        "weight": 2.0,
        "weight_gradient": 0.5,
        "bias_gradient": 0.1,
        "relative": 0.25,
        "dead": 0.1,
    }
    return pd.DataFrame(
        [
            {"epoch": epoch, "layer": f"hidden{layer}"} | row | values
            for epoch in range(1, epochs + 1)
            for layer in range(layers)
        ],
        columns=COLUMNS,
    )


def test_relu_and_its_derivative() -> None:
    """relu is max(0, z); its slope is 0 up to and with zero, then 1."""
    left, right = drawn(gradient_plots.relu()).axes
    z, activation = left.lines[0].get_data()
    assert np.maximum(z, 0).tolist() == np.asarray(activation).tolist()
    assert [[0, 0], [1, 1]] == [list(line.get_ydata()) for line in right.lines[:2]]


def test_flow_shows_norms_and_dead_share() -> None:
    """A line for each layer with its norms, on a log scale, and the share of dead units in per cent."""
    figure = drawn(gradient_plots.gradient_flow(health(3, 2)))
    weights, deltas, dead = figure.axes
    assert "Gradients are healthy in every layer" == figure.get_suptitle()
    assert ["log", "log", "linear"] == [axes.get_yscale() for axes in figure.axes]
    assert [0.5] * 3 == line(weights, "layer hidden1")
    assert [0.1] * 3 == line(deltas, "layer hidden0")
    assert [10.0] * 3 == line(dead, "layer hidden0")


@pytest.mark.parametrize("epochs", [1, 2, 40])
@pytest.mark.parametrize("layers", [1, 10, 30])
def test_flow_of_any_length_and_depth(epochs: int, layers: int) -> None:
    """One epoch or many, one layer or thirty: at most ten lines, the first and the last layer among them."""
    axes = drawn(gradient_plots.gradient_flow(health(epochs, layers))).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert min(layers, 10) == len(labels)
    assert ["layer hidden0", f"layer hidden{layers - 1}"] == [labels[0], labels[-1]]


def test_flow_says_what_is_wrong() -> None:
    """The title is the first warning, with the number of the others."""
    figure = drawn(gradient_plots.gradient_flow(health(2, 2, dead=0.8)))
    title = figure.get_suptitle()
    assert title.startswith("layer hidden0: 80% of its ReLU units are dead (epoch 1; 2 of 2 epochs)")
    assert title.endswith("and 1 more warnings")


@pytest.mark.parametrize(
    "values", [{"delta": math.inf, "weight_gradient": math.inf}, {"delta": 0.0, "weight_gradient": 0.0}]
)
def test_flow_leaves_a_hole_where_a_log_scale_has_no_place(values: dict[str, float]) -> None:
    """Zero and infinity are drawn as nothing, not as an error."""
    axes = drawn(gradient_plots.gradient_flow(health(3, 1, **values))).axes[0]
    assert all(math.isnan(value) for value in line(axes, "layer hidden0"))


def test_flow_leaves_out_what_was_not_seen() -> None:
    """Without any ReLU there is no panel for dead ones."""
    assert 2 == len(drawn(gradient_plots.gradient_flow(health(3, 2, dead=math.nan))).axes)


def test_loss_of_one_learning_rate() -> None:
    """The line is the loss at each step."""
    explanation = worked_example((2, 3, 3, 1), steps=7)
    figure = drawn(gradient_plots.losses(explanation.loss_table()))
    assert list(explanation.losses) == line(figure.axes[0], "learning rate 0.5")
    assert figure.get_suptitle().startswith("7 steps at a learning rate of 0.5: loss ")


def test_loss_of_several_learning_rates() -> None:
    """A line for each rate, the best named in the title, even when one of them diverges."""
    table = compare_rates(worked_example((2, 3, 3, 1), steps=1, seed=2), [0.01, 0.5, 1000.0], steps=60)
    table.loc[table["learning_rate"] == 1000.0, "loss"] = [0.7, *[math.inf] * 30, *[math.nan] * 30]
    figure = drawn(gradient_plots.losses(table, guessing=math.log(2)))
    assert figure.get_suptitle().startswith("3 learning rates, 60 steps: 0.5 ends lowest")
    labels = {line.get_label() for line in figure.axes[0].lines}
    assert {"learning rate 0.01", "learning rate 0.5", "learning rate 1000", "guessing: 0.693"} == labels


@pytest.mark.parametrize("steps", [1, 2])
def test_loss_of_very_few_steps(steps: int) -> None:
    """A single step is two points."""
    drawn(gradient_plots.losses(worked_example((2, 1), steps=steps).loss_table()))


@pytest.mark.parametrize(
    ("sizes", "shape"), [((48, 7, 5, 3), (3, 4, 4)), ((16, 1), (1, 4, 4)), ((16, 40), (1, 4, 4))]
)
def test_a_picture_forward_and_back(sizes: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    """Grey or coloured, no hidden layer or two, one output or forty: a panel each, forward and back."""
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    classes = [f"class{number}" for number in range(max(2, sizes[-1]))]
    explanation = picture_example(untrained(sizes), image, "class1", classes, steps=1)
    outputs = classes if sizes[-1] > 1 else ["class1"]
    figure = drawn(gradient_plots.picture_passage(explanation, image, outputs))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert 2 * len(sizes) == len(panels)
    bars = [patch.get_width() for patch in panels[len(sizes) - 1].patches]
    assert explanation.passed.output[0].tolist() == pytest.approx(bars)
    back = explanation.deltas[0] @ explanation.layers[0].weight
    expected = back.reshape(shape).sum(dim=0).numpy()
    np.testing.assert_allclose(expected, panels[len(sizes)].images[0].get_array())
