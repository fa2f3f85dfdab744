"""The plan of a network: it draws without a warning, holds every layer, and no text covers another."""

import io
import itertools

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from relearn.model.config import TrainConfig
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import summarize_layers
from relearn.model.plots.architecture import MAX_BOXES, plot_architecture


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


@pytest.mark.parametrize(
    "settings", [{}, {"network": "cnn"}, {"network": "cnn", "batch_norm": True, "dropout": 0.1}]
)
def test_the_plan_names_every_layer(settings: dict[str, object]) -> None:
    """Name, kind, activation, shape and parameters of each layer are drawn, the total is in the title."""
    shape = (1, 28, 28)
    table = summarize_layers(build_network(TrainConfig.parse(settings), shape, 10), shape)
    figure = drawn(plot_architecture(table, shape, "mine"))
    words = said(figure)
    for _, row in table.iterrows():
        assert {row["name"], row["kind"]} <= set(words)
        assert " × ".join(f"{side:,}" for side in row["output shape"]) in words
        assert row["activation"] in ["", *words]
        assert not row["parameters"] or f"{row['parameters']:,} parameters" in words
    assert "1 × 28 × 28" in words
    assert f"mine: {table['parameters'].sum():,} parameters in {len(table)} layers" == figure.get_suptitle()
    assert not any(box.overlaps(other) for box, other in itertools.combinations(boxes(figure), 2))


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
    axes = plot_architecture(table, (4,)).axes[0]
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
    words = said(drawn(plot_architecture(table, (8,), "x" * 200)))
    assert {"layer0", "layer99", f"… {100 - MAX_BOXES} more layers …"} <= set(words)
    assert "layer50" not in words
    assert str(99 - MAX_BOXES // 2) in words  # what enters the first layer after the gap
