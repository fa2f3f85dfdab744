"""The drawings: they draw without a warning, hold the right numbers, and no number covers another."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from relearn.model.architecture import MAX_BOXES, architecture
from relearn.model.config import TrainConfig
from relearn.model.diagrams import PHASES, Phase, is_drawable, worked_network
from relearn.model.errors import InputError
from relearn.model.examples import worked_example
from relearn.model.networks import build, layers
from relearn.model.placement import along_edges

SIZES = [(2, 3, 3, 1), (4, 5, 3), (2, 2, 1), (5, 5), (1, 1), (2, 3, 3, 3, 3, 2)]


def drawn(figure: Figure) -> Figure:
    """The figure after it was written as PNG, which is when matplotlib finds fault with it."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def words(figure: Figure) -> list[Text]:
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def said(figure: Figure) -> list[str]:
    return [text.get_text() for text in words(figure)]


def corners(text: Text, figure: Figure) -> np.ndarray:
    """The corners (4, 2) of a text as written, turned as it is turned, in pixels."""
    angle = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    text.set_rotation(angle)
    if angle:
        middle = np.array(text.get_transform().transform(text.get_position()))
    else:
        middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    half = np.array([box.width - 2, box.height - 4]) / 2  # the box has some air around the letters
    radians = np.radians(angle)
    turn = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    return middle + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half @ turn


def overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two turned rectangles meet: there is no line between them along any of their sides."""
    for box in (first, second):
        for side in (box[1] - box[0], box[2] - box[1]):
            one, two = first @ side, second @ side
            if one.max() <= two.min() or two.max() <= one.min():
                return False
    return True


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("seed", [0, 2])
def test_no_number_covers_another(sizes: tuple[int, ...], phase: Phase, seed: int) -> None:
    """In every phase all texts stand apart, and inside the figure."""
    figure = drawn(worked_network(worked_example(sizes, steps=1, seed=seed), phase))
    boxes = [(text.get_text(), corners(text, figure)) for text in words(figure)]
    width, height = figure.canvas.get_width_height()
    for index, (text, box) in enumerate(boxes):
        assert (box >= -1).all(), text
        assert (box <= np.array([width, height]) + 1).all(), text
        for other, other_box in boxes[index + 1 :]:
            assert not overlap(box, other_box), f"{text} and {other}"


def test_forward_shows_weights_and_activations() -> None:
    """Weights, biases, sums, activations and the target are written."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=2)
    texts = said(worked_network(explanation, "forward"))
    for row in explanation.update_table().query("`from` != 'bias'").itertuples():
        assert f"{row.before:.2f}".replace("-", "−") in texts
    for row in explanation.forward_table().itertuples():
        assert any(f"z {row.sum:.2f}".replace("-", "−") in text for text in texts)
    assert f"{explanation.passed.output.item():.2f}" in texts
    assert "target 0" in texts


def test_backward_shows_deltas_and_gradients() -> None:
    """δ of each unit and the gradient of each weight are written; what is exactly zero is a plain 0."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=2)
    texts = said(worked_network(explanation, "backward"))
    numbers = [*explanation.delta_table()["delta"], *explanation.update_table()["gradient"]]
    for number in numbers:
        assert (f"{number:.3f}".replace("-", "−") if number else "0") in texts
    assert "−0" not in texts


def test_update_shows_before_and_after() -> None:
    """A weight that moves is written before → after, one that does not only once."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=2)
    texts = said(worked_network(explanation, "update"))
    for row in explanation.update_table().query("`from` != 'bias'").itertuples():
        before, after = (text.replace("-", "−") for text in (f"{row.before:.2f}", f"{row.after:.3f}"))
        assert (before if row.before == row.after else f"{before} → {after}") in texts


def test_silent_units_are_grey() -> None:
    """As many grey units as there are sums at or below zero."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=2)
    silent = sum(int((z <= 0).sum()) for z in explanation.passed.z[:-1])
    circles = worked_network(explanation, "forward").axes[0].patches
    white = [circle for circle in circles if circle.get_facecolor() == (1, 1, 1, 1)]
    assert 2 == silent
    assert silent == len(circles) - len(white)


def test_a_network_too_large_to_read_is_refused() -> None:
    """Six units in a layer, or seven layers, are told apart before anything is drawn."""
    assert is_drawable((5, 5, 5))
    assert not is_drawable((2,) * 7)
    with pytest.raises(
        InputError, match="got 3 layers of up to 6 units, accepted: up to 6 layers of up to 5"
    ):
        worked_network(worked_example((6, 2, 1), steps=1), "forward")


def test_a_number_avoids_notes_and_other_numbers() -> None:
    """Two crossing edges: their numbers do not both take the middle, and keep clear of a note there."""
    edges = [((0.0, 0.0), (4.0, 2.0)), ((0.0, 2.0), (4.0, 0.0))]
    places = along_edges(edges, [0.8, 0.8], 0.2, 0.3, [(1.0, 0.5)])
    (first_x, first_y, angle), (second_x, second_y, _) = places
    assert np.hypot(first_x - second_x, first_y - second_y) > 0.4
    assert np.hypot(first_x - 1.0, first_y - 0.5) > 0.4
    assert np.degrees(np.arctan2(2, 4)) == pytest.approx(angle)
    for (start, end), (x, y, _) in zip(edges, places, strict=True):
        across = (end[0] - start[0]) * (y - start[1]) - (end[1] - start[1]) * (x - start[0])
        assert across == pytest.approx(0)


@pytest.mark.parametrize(
    "settings", [{}, {"network": "cnn"}, {"network": "cnn", "batch_norm": True, "dropout": 0.1}]
)
def test_the_plan_names_every_layer(settings: dict[str, object]) -> None:
    """Name, kind, activation, shape and parameters of each layer are drawn, the total is in the title."""
    shape = (1, 28, 28)
    table = layers(build(TrainConfig.read(settings), shape, 10), shape)
    figure = drawn(architecture(table, shape, "mine"))
    texts = said(figure)
    for _, row in table.iterrows():
        assert {row["name"], row["kind"]} <= set(texts)
        assert " × ".join(f"{side:,}" for side in row["output shape"]) in texts
        assert row["activation"] in ["", *texts]
        assert not row["parameters"] or f"{row['parameters']:,} parameters" in texts
    assert "1 × 28 × 28" in texts
    assert f"mine: {table['parameters'].sum():,} parameters in {len(table)} layers" == figure.get_suptitle()
    boxes = [corners(text, figure) for text in words(figure)]
    assert not any(overlap(box, other) for index, box in enumerate(boxes) for other in boxes[index + 1 :])


def test_bars_compare_parameters() -> None:
    """A layer with a quarter of the parameters has a bar of a quarter of the longest possible."""
    table = pd.DataFrame(
        {
            "name": ["a", "b"],
            "kind": ["Linear", "Odd"],
            "output shape": [(3,), "as it comes"],
            "activation": ["", "ReLU"],
            "parameters": [75, 25],
        }
    )
    axes = architecture(table, (4,)).axes[0]
    bars = [
        patch.get_width()
        for patch in axes.patches
        if isinstance(patch, Rectangle) and patch.get_height() == 0.1
    ]
    assert pytest.approx(3.0) == bars[0] / bars[1]
    assert "as it comes" in [text.get_text() for text in axes.texts]


def test_a_very_deep_network_is_shortened() -> None:
    """Of 100 layers the first and the last are drawn, and how many are left out is said."""
    table = pd.DataFrame(
        {
            "name": [f"layer{number}" for number in range(100)],
            "kind": "Linear",
            "output shape": [(number,) for number in range(100)],
            "activation": "",
            "parameters": 0,
        }
    )
    texts = said(drawn(architecture(table, (8,), "x" * 200)))
    assert {"layer0", "layer99", f"… {100 - MAX_BOXES} more layers …"} <= set(texts)
    assert "layer50" not in texts
    assert str(99 - MAX_BOXES // 2) in texts  # what enters the first layer after the gap
