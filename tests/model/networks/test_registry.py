"""Built-in networks: sizes, shapes, initial weights, and errors for unusable settings."""

import pytest
import torch

from relearn.model.config import TrainConfig
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import ConfigError, NotFoundError
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters

SHAPE = (1, 28, 28)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 407_050),
        ({"hidden_sizes": (784, 512)}, 1_022_490),
        ({"network": "cnn"}, 542_230),
        ({"network": "cnn", "conv_channels": (32, 64), "kernel_size": 5}, 155_606),
        ({"network": "pretrained"}, 12_810),
    ],
)
def test_parameter_counts(settings: dict[str, object], parameters: int) -> None:
    """The networks have the documented numbers of parameters."""
    assert parameters == count_parameters(build_network(TrainConfig.parse(settings), SHAPE, 10))


@pytest.mark.parametrize(
    ("side", "convolutions"), [(224, 3), (32, 3), (22, 3), (21, 2), (10, 2), (9, 1), (4, 1)]
)
def test_cnn_of_color_images_has_the_blocks_that_fit(side: int, convolutions: int) -> None:
    """Up to three, with batch normalization; settings that are given are kept."""
    network = build_network(TrainConfig(network="cnn"), (3, side, side), 2)
    names = [name for name, _ in network.named_children()]
    assert convolutions == sum(name.startswith("convolution") for name in names)
    assert convolutions == sum(name.startswith("batch_norm") for name in names)
    config = TrainConfig(network="cnn", conv_channels=(4,), batch_norm=False)
    names = [name for name, _ in build_network(config, (3, side, side), 2).named_children()]
    assert ["convolution", "pool", "relu", "flatten"] == names[:4]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 48)])
@pytest.mark.parametrize("settings", [{}, {"batch_norm": True, "dropout": 0.5}])
def test_any_shape_gives_logits(name: str, shape: tuple[int, int, int], settings: dict[str, object]) -> None:
    """Every network accepts images of any shape and returns one logit per class."""
    network = build_network(TrainConfig.parse({"network": name, **settings}), shape, 7)
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert (3, 7) == network(to_unit_float(images, expects_flat_input(network))).shape


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """The same seed gives the same weights, also after other random numbers; another seed gives others."""
    network = build_network(TrainConfig(seed=1), SHAPE, 10)
    torch.rand(5)
    same_seed = build_network(TrainConfig(seed=1), SHAPE, 10)
    other_seed = build_network(TrainConfig(seed=2), SHAPE, 10)
    assert torch.equal(network[0].weight, same_seed[0].weight)
    assert not torch.equal(network[0].weight, other_seed[0].weight)


def test_keras_initialization() -> None:
    """`keras` gives weights within the range of Glorot uniform, and zero biases."""
    network = build_network(TrainConfig(weight_init="keras"), SHAPE, 10)
    limit = (6 / (784 + 512)) ** 0.5
    assert 0.99 * limit < network[0].weight.abs().max().item() <= limit
    assert 0 == network[0].bias.abs().sum().item()


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({"conv_channels": (4, 4, 4)}, "2 for images of 12×12"),
        ({"kernel_size": 12}, "none for images of 12×12"),
    ],
)
def test_too_many_convolutions_are_rejected(settings: dict[str, object], accepted: str) -> None:
    """The message has the accepted number for the image size."""
    with pytest.raises(ConfigError, match=f"^conv_channels: got .*, each with a pool, accepted: {accepted}"):
        build_network(TrainConfig.parse({"network": "cnn", **settings}), (1, 12, 12), 10)


def test_too_large_network_is_rejected_before_it_is_built() -> None:
    """The message has the number of parameters and the accepted maximum."""
    with pytest.raises(
        ConfigError, match="would have 4,347,133,962 parameters, accepted: at most 100,000,000"
    ):
        build_network(TrainConfig(hidden_sizes=(65_536, 65_536)), SHAPE, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cn",
            "got 'cn', accepted: mlp, cnn, pretrained, pretrained-lite1, pretrained-lite2 or a custom class "
            "as package.module:Class",
        ),
        ("no_such_module:Network", "no module named 'no_such_module'"),
        ("json:Network", "json has no class 'Network'"),
        ("json:JSONDecoder", "json:JSONDecoder is not a torch.nn.Module class"),
        (":", "accepted"),
        ("torch.nn:Linear", "accepted: torch.nn.modules.linear:Linear, where the class is defined"),
    ],
)
def test_unknown_network_is_rejected(name: str, message: str) -> None:
    """The message has the name and what is missing or accepted."""
    with pytest.raises((ConfigError, NotFoundError), match=message):
        build_network(TrainConfig(network=name), SHAPE, 10)
