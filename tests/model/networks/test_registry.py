from pathlib import Path

import pytest
import torch

from relearn.model.config import TrainConfig
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import ConfigError, NotFoundError
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters, summarize_layers

DIGITS = (1, 28, 28)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 407_050),
        ({"hidden_sizes": (784, 512)}, 1_022_490),
        ({"network": "cnn"}, 542_230),
        ({"network": "cnn", "conv_channels": (32, 64), "kernel_size": 5}, 155_606),
    ],
)
def test_parameter_counts(settings: dict[str, object], parameters: int) -> None:
    """The networks have the sizes that their descriptions promise."""
    assert parameters == count_parameters(build_network(TrainConfig.parse(settings), DIGITS, 10))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 48)])
@pytest.mark.parametrize("extras", [{}, {"batch_norm": True, "dropout": 0.5}])
def test_any_shape_gives_logits(name: str, shape: tuple[int, int, int], extras: dict[str, object]) -> None:
    """Every network takes images of any shape and gives one logit a class."""
    network = build_network(TrainConfig.parse({"network": name, **extras}), shape, 7)
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert (3, 7) == network(to_unit_float(images, expects_flat_input(network))).shape


def test_first_weights_depend_on_the_seed_alone() -> None:
    """The same seed gives the same first weights, whatever was drawn before; another gives others."""
    first = build_network(TrainConfig(seed=1), DIGITS, 10)
    torch.rand(5)
    second, third = (
        build_network(TrainConfig(seed=1), DIGITS, 10),
        build_network(TrainConfig(seed=2), DIGITS, 10),
    )
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, third[0].weight)


def test_keras_initialisation() -> None:
    """`keras` draws weights from Glorot's uniform range and starts biases at zero."""
    network = build_network(TrainConfig(weight_init="keras"), DIGITS, 10)
    limit = (6 / (784 + 512)) ** 0.5
    assert 0.99 * limit < network[0].weight.abs().max().item() <= limit
    assert 0 == network[0].bias.abs().sum().item()


def test_layer_table_tells_shapes_activations_and_parameters() -> None:
    """The summary has one row a layer and adds up to the whole."""
    table = summarize_layers(build_network(TrainConfig(network="cnn"), DIGITS, 10), DIGITS)
    assert ["convolution", "pool", "flatten", "dense", "output"] == list(table["name"])
    assert [(32, 26, 26), (32, 13, 13), (5408,), (100,), (10,)] == list(table["output shape"])
    assert ["", "ReLU", "", "ReLU", "Softmax"] == list(table["activation"])
    assert 542_230 == table["parameters"].sum()


def test_a_deeper_cnn_names_its_convolutions() -> None:
    """The first keeps the name that it has alone, so that one convolution is one of many."""
    table = summarize_layers(
        build_network(TrainConfig(network="cnn", conv_channels=(4, 8), batch_norm=True), DIGITS, 10), DIGITS
    )
    assert ["convolution", "batch_norm", "pool", "convolution2", "batch_norm2", "pool2"] == list(
        table["name"][:6]
    )
    assert (8, 5, 5) == table["output shape"][5]


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({"conv_channels": (4, 4, 4)}, "2 for images of 12×12"),
        ({"kernel_size": 12}, "none for images of 12×12"),
    ],
)
def test_images_too_small_for_the_convolutions_are_refused(
    settings: dict[str, object], accepted: str
) -> None:
    """The line says how many would do."""
    with pytest.raises(ConfigError, match=f"each with a pool, accepted: {accepted}"):
        build_network(TrainConfig.parse({"network": "cnn", **settings}), (1, 12, 12), 10)


def test_a_network_too_large_is_refused_before_it_is_made() -> None:
    """A width that would fill the memory is one line, at once."""
    with pytest.raises(ConfigError, match="would have 4,347,133,962 parameters, accepted: 100,000,000"):
        build_network(TrainConfig(hidden_sizes=(65_536, 65_536)), DIGITS, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cn", "got 'cn', accepted: mlp, cnn or a class of your own as package.module:Class"),
        ("no_such_module:Network", "no module named 'no_such_module'"),
        ("json:Network", "json has no class 'Network'"),
        ("json:JSONDecoder", "json:JSONDecoder is not a torch.nn.Module class"),
        (":", "accepted"),
        ("torch.nn:Linear", "accepted: torch.nn.modules.linear:Linear, where it stands"),
    ],
)
def test_an_unknown_network_is_one_line(name: str, message: str) -> None:
    """A network that is not there is said by name, with what is accepted."""
    with pytest.raises((ConfigError, NotFoundError), match=message):
        build_network(TrainConfig(network=name), DIGITS, 10)


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class in the working folder is found by its name and gets the sizes of the data."""
    (tmp_path / "tiny_network.py").write_text(
        "from torch import nn\n"
        "class Tiny(nn.Sequential):\n"
        "    def __init__(self, shape, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    network = build_network(TrainConfig(network="tiny_network:Tiny"), (1, 8, 8), 4)
    assert (2, 4) == network(torch.zeros(2, 1, 8, 8)).shape
