"""Layer table of a network."""

from relearn.model.config import TrainConfig
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import summarize_layers

SHAPE = (1, 28, 28)


def test_table_has_shapes_activations_and_parameters() -> None:
    """There is one row per layer; the parameters add up to those of the network."""
    table = summarize_layers(build_network(TrainConfig(network="cnn", dropout=0), SHAPE, 10), SHAPE)
    assert ["convolution", "pool", "flatten", "dense", "output"] == list(table["name"])
    assert [(32, 26, 26), (32, 13, 13), (5408,), (100,), (10,)] == list(table["output shape"])
    assert ["", "ReLU", "", "ReLU", "Softmax"] == list(table["activation"])
    assert 542_230 == table["parameters"].sum()


def test_convolutions_are_numbered_from_the_second_on() -> None:
    """The first one has the same name in every cnn."""
    table = summarize_layers(
        build_network(TrainConfig(network="cnn", conv_channels=(4, 8), batch_norm=True), SHAPE, 10), SHAPE
    )
    assert ["convolution", "batch_norm", "pool", "convolution2", "batch_norm2", "pool2"] == list(
        table["name"][:6]
    )
    assert (8, 5, 5) == table["output shape"][5]
