"""Tests of the network diagram: it draws without a warning, shows every layer, and no texts overlap."""

import itertools

import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from relearn.model.config import TrainConfig
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import summarize_layers
from relearn.model.plots.architecture import MAX_BOXES, plot_architecture
from tests.model.plots.figures import save_as_png, text_boxes, text_contents


@pytest.mark.parametrize(
    "settings", [{}, {"network": "cnn"}, {"network": "cnn", "batch_norm": True, "dropout": 0.1}]
)
def test_diagram_shows_every_layer(settings: dict[str, object]) -> None:
    """Name, kind, activation, shape and parameters of each layer are drawn; the total is in the title."""
    shape = (1, 28, 28)
    table = summarize_layers(build_network(TrainConfig.parse(settings), shape, 10), shape)
    figure = save_as_png(plot_architecture(table, shape, "custom"))
    words = text_contents(figure)
    for _, row in table.iterrows():
        assert {row["name"], row["kind"]} <= set(words)
        assert " × ".join(f"{side:,}" for side in row["output shape"]) in words
        assert row["activation"] in ["", *words]
        assert not row["parameters"] or f"{row['parameters']:,} parameters" in words
    assert "1 × 28 × 28" in words
    assert f"custom: {table['parameters'].sum():,} parameters in {len(table)} layers" == figure.get_suptitle()
    assert not any(box.overlaps(other) for box, other in itertools.combinations(text_boxes(figure), 2))


def test_bars_compare_parameters() -> None:
    """A layer with a quarter of the parameters has a bar of a quarter of the maximum width."""
    table = pd.DataFrame(
        {
            "name": ["a", "b"],
            "kind": ["Linear", "Other"],
            "output shape": [(3,), "dynamic"],
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
    assert "dynamic" in [text.get_text() for text in axes.texts]


def test_middle_layers_of_a_deep_network_are_omitted() -> None:
    """Of 100 layers the first and the last are drawn, with the number of omitted layers."""
    table = pd.DataFrame(
        {
            "name": [f"layer{number}" for number in range(100)],
            "kind": "Linear",
            "output shape": [(number,) for number in range(100)],
            "activation": "",
            "parameters": 0,
        }
    )
    words = text_contents(save_as_png(plot_architecture(table, (8,), "x" * 200)))
    assert {"layer0", "layer99", f"… {100 - MAX_BOXES} more layers …"} <= set(words)
    assert "layer50" not in words
    assert str(99 - MAX_BOXES // 2) in words  # input of the first layer after the gap
