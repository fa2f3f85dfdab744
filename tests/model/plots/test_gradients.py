"""Tests of the gradient figure: it draws without a warning and shows the right numbers."""

import math

import pandas as pd
import pytest

from relearn.model.plots.gradients import plot_gradient_flow
from relearn.model.training.gradient_health import COLUMNS
from tests.model.plots.figures import line_points, save_as_png


def health(epochs: int, layers: int, **values: float) -> pd.DataFrame:
    row = {
        "delta": 0.1,
        "weight": 2.0,
        "weight_gradient": 0.5,
        "bias_gradient": 0.1,
        "gradient_to_weight_ratio": 0.25,
        "dead_fraction": 0.1,
    }
    return pd.DataFrame(
        [
            {"epoch": epoch, "layer": f"hidden{layer}"} | row | values
            for epoch in range(1, epochs + 1)
            for layer in range(layers)
        ],
        columns=COLUMNS,
    )


def test_gradient_flow_shows_norms_and_dead_units() -> None:
    """Each layer has a line with its norms, on a log scale, and its percentage of dead units."""
    figure = save_as_png(plot_gradient_flow(health(3, 2)))
    weights, deltas, dead = figure.axes
    assert "Gradients are healthy in every layer" == figure.get_suptitle()
    assert ["log", "log", "linear"] == [axes.get_yscale() for axes in figure.axes]
    assert [0.5] * 3 == line_points(weights, "layer hidden1")[1].tolist()
    assert [0.1] * 3 == line_points(deltas, "layer hidden0")[1].tolist()
    assert [10.0] * 3 == line_points(dead, "layer hidden0")[1].tolist()


@pytest.mark.parametrize("epochs", [1, 2, 40])
@pytest.mark.parametrize("layers", [1, 10, 30])
def test_gradient_flow_draws_at_most_ten_layers(epochs: int, layers: int) -> None:
    """For any number of epochs and layers there are at most ten lines, with the first and last layer."""
    axes = save_as_png(plot_gradient_flow(health(epochs, layers))).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert min(layers, 10) == len(labels)
    assert ["layer hidden0", f"layer hidden{layers - 1}"] == [labels[0], labels[-1]]


def test_gradient_flow_title_is_the_first_warning() -> None:
    """The title is the first warning, with the number of further warnings."""
    figure = save_as_png(plot_gradient_flow(health(2, 2, dead_fraction=0.8)))
    title = figure.get_suptitle()
    assert title.startswith("layer hidden0: 80% of its ReLU units are dead (epoch 1; 2 of 2 epochs)")
    assert title.endswith("and 1 more warnings")


@pytest.mark.parametrize(
    "values", [{"delta": math.inf, "weight_gradient": math.inf}, {"delta": 0.0, "weight_gradient": 0.0}]
)
def test_zero_and_infinite_norms_are_gaps(values: dict[str, float]) -> None:
    """Values that a log scale cannot show are gaps, not errors."""
    axes = save_as_png(plot_gradient_flow(health(3, 1, **values))).axes[0]
    assert all(math.isnan(value) for value in line_points(axes, "layer hidden0")[1].tolist())


def test_networks_without_relu_have_no_panel_of_dead_units() -> None:
    """Without any ReLU there are only the two panels of norms."""
    assert 2 == len(save_as_png(plot_gradient_flow(health(3, 2, dead_fraction=math.nan))).axes)
