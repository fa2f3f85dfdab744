"""Tests of the learning curves."""

import numpy as np
import pandas as pd
import pytest

from relearn.model.plots import learning_curves
from tests.model.plots.figures import line_points, make_history, save_as_png


def test_learning_curves_show_the_history() -> None:
    """Both panels show training and validation, accuracy in percent, best and last epoch marked."""
    table = make_history(6)
    figure = save_as_png(
        learning_curves.plot_learning_curves(
            table, best_epoch=4, stop_reason="no better val_loss for 2 epochs"
        )
    )
    loss, accuracy = figure.axes

    assert table["train_loss"].tolist() == line_points(loss, "training")[1].tolist()
    assert table["val_loss"].tolist() == line_points(loss, "validation")[1].tolist()
    assert (100 * table["train_accuracy"]).tolist() == line_points(accuracy, "training")[1].tolist()
    assert (100 * table["val_accuracy"]).tolist() == line_points(accuracy, "validation")[1].tolist()
    assert [[4], [0.35]] == line_points(loss, "best epoch: 4").tolist()
    assert [6, 6] == line_points(loss, "last epoch: 6")[0].tolist()
    assert ["loss (nats per image)", "accuracy (%)"] == [axes.get_ylabel() for axes in figure.axes]
    assert figure.get_suptitle() == (
        "Best epoch: 4 of 6, validation loss 0.3500, accuracy 77.5%\n"
        "Stopped after epoch 6: no better val_loss for 2 epochs"
    )


def test_learning_curves_of_one_epoch_show_points() -> None:
    """A single epoch is visible as a point at tick 1, because a line needs two points."""
    figure = save_as_png(learning_curves.plot_learning_curves(make_history(1), best_epoch=1))

    assert "o" == figure.axes[0].lines[0].get_marker()
    assert [1] == [tick for tick in figure.axes[0].get_xticks() if 0.9 < tick < 1.1]


def test_an_infinite_loss_is_a_gap_in_the_curve() -> None:
    """A diverged epoch is a gap, and the other epochs keep their scale."""
    table = make_history(5)
    table.loc[2, "train_loss"] = np.inf
    axes = save_as_png(learning_curves.plot_learning_curves(table, best_epoch=5)).axes[0]

    assert np.isnan(line_points(axes, "training")[1, 2])
    assert axes.get_ylim()[1] < 2


def test_each_run_has_a_distinct_line() -> None:
    """Each run has a labeled line of its own color and style, and a faint training curve."""
    histories = {f"digits-mlp-lr{index}": make_history(3 + index) for index in range(9)}
    loss = save_as_png(learning_curves.plot_runs(histories)).axes[0]
    faint, strong = loss.lines[::2], loss.lines[1::2]

    assert list(histories) == [line.get_label() for line in strong]
    assert make_history(3)["train_loss"].tolist() == faint[0].get_ydata().tolist()
    assert [(line.get_color(), line.get_linestyle()) for line in strong] == [
        (line.get_color(), line.get_linestyle()) for line in faint
    ]
    assert [1.1, 0.6, 1 / 3 + 0.1] == pytest.approx(line_points(loss, "digits-mlp-lr0")[1].tolist())
    assert 9 == len({(line.get_color(), line.get_linestyle()) for line in loss.lines})


def test_figure_shows_every_penalty_and_marks_the_chosen_one() -> None:
    """Loss and accuracy, in percent, are over C on a logarithmic axis."""
    table = pd.DataFrame({"c": [0.01, 0.1, 1.0], "loss": [0.5, 0.25, 0.75], "accuracy": [0.75, 1.0, 0.5]})
    figure = save_as_png(learning_curves.plot_penalties(table, 0.1))
    loss, accuracy = figure.axes
    assert [[0.01, 0.1, 1.0], [0.5, 0.25, 0.75]] == line_points(loss, "held-out images").tolist()
    assert [75, 100, 50] == line_points(accuracy, "held-out images")[1].tolist()
    assert [[0.1], [0.25]] == line_points(loss, "C 0.1").tolist()
    assert "log" == loss.get_xscale()
    assert "Cross-validation: C 0.1, loss 0.2500, accuracy 100.0%" == figure.get_suptitle()
