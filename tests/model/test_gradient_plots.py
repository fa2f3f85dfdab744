"""The figure of the gradients of a run draws without a warning and holds their numbers."""

import io
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relearn.model.plots.gradients import plot_gradient_flow
from relearn.model.training.gradient_health import COLUMNS


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


def test_flow_shows_norms_and_dead_share() -> None:
    """A line for each layer with its norms, on a log scale, and the share of dead units in per cent."""
    figure = drawn(plot_gradient_flow(health(3, 2)))
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
    axes = drawn(plot_gradient_flow(health(epochs, layers))).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert min(layers, 10) == len(labels)
    assert ["layer hidden0", f"layer hidden{layers - 1}"] == [labels[0], labels[-1]]


def test_flow_says_what_is_wrong() -> None:
    """The title is the first warning, with the number of the others."""
    figure = drawn(plot_gradient_flow(health(2, 2, dead=0.8)))
    title = figure.get_suptitle()
    assert title.startswith("layer hidden0: 80% of its ReLU units are dead (epoch 1; 2 of 2 epochs)")
    assert title.endswith("and 1 more warnings")


@pytest.mark.parametrize(
    "values", [{"delta": math.inf, "weight_gradient": math.inf}, {"delta": 0.0, "weight_gradient": 0.0}]
)
def test_flow_leaves_a_hole_where_a_log_scale_has_no_place(values: dict[str, float]) -> None:
    """Zero and infinity are drawn as nothing, not as an error."""
    axes = drawn(plot_gradient_flow(health(3, 1, **values))).axes[0]
    assert all(math.isnan(value) for value in line(axes, "layer hidden0"))


def test_flow_leaves_out_what_was_not_seen() -> None:
    """Without any ReLU there is no panel for dead ones."""
    assert 2 == len(drawn(plot_gradient_flow(health(3, 2, dead=math.nan))).axes)
