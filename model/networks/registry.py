"""Networks by name, and the function that builds one.

A network takes float32 images in 0–1, (n, channels, height, width), or (n, channels·height·width) if its
attribute `flat_input` is true, and returns logits (n, classes). If its attribute `allow_micro_batches` is
true, training may split a batch: the output for an image must then not depend on the other images. If
its attribute `predicts_singly` is true, a prediction passes each image alone, on a core of its own.
"""

import re

import torch
from torch import nn

from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError
from relearn.model.networks.cnn import CNN
from relearn.model.networks.custom import import_network, instantiate_and_check
from relearn.model.networks.mlp import MLP
from relearn.model.networks.pretrained import SCALES, Pretrained
from relearn.model.networks.summary import count_parameters

NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": CNN, **dict.fromkeys(SCALES, Pretrained)}

# 400 MB of float32, four times that with gradients and momentum: more than a sensible network for images of
# 256 pixels a side needs, and still within a laptop's memory.
MAX_PARAMETERS = 100_000_000


def build_network(
    config: TrainConfig,
    shape: tuple[int, int, int],
    classes: int,
    custom_class: type[nn.Module] | None = None,
) -> nn.Module:
    """Build the network of `config` for images of `shape`; `config.seed` determines its initial weights.

    `custom_class` replaces the lookup of `config.network`.

    Raises `ConfigError` for an unknown name, more than `MAX_PARAMETERS` parameters or an unusable custom
    class, `NotFoundError` for a missing one.
    """
    network_class = custom_class or get_network_class(config.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.network in NETWORKS:
            _check_size(network_class, config, shape, classes)
            network = network_class(config, shape, classes)
        else:
            network = instantiate_and_check(network_class, config.network, shape, classes)
        if config.weight_init == "keras":
            network.apply(_init_glorot)
    return network


def get_network_class(name: str) -> type[nn.Module]:
    """Return the class for `name`; imports a module only for `package.module:Class`."""
    if name in NETWORKS:
        return NETWORKS[name]
    if not re.fullmatch(r"[\w.]+:\w+", name):
        accepted = f"{', '.join(NETWORKS)} or a custom class as package.module:Class"
        raise ConfigError([f"network: got {name!r}, accepted: {accepted}"])
    return import_network(name)


def _check_size(
    network_class: type[nn.Module], config: TrainConfig, shape: tuple[int, int, int], classes: int
) -> None:
    with torch.device("meta"):  # allocates no memory
        parameters = count_parameters(network_class(config, shape, classes))
    if parameters > MAX_PARAMETERS:
        raise ConfigError(
            [
                f"network: {config.network} would have {parameters:,} parameters, accepted: at most"
                f" {MAX_PARAMETERS:,}"
            ]
        )


def _init_glorot(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
