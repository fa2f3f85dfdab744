"""The networks that can be trained, and the door for the user's own.

A network takes float32 images in 0–1, (n, channels, height, width), or (n, channels·height·width) where
its attribute `flat` is true, and gives logits (n, classes). Where its attribute `sliced` is true it may be
shown a batch in slices: what it makes of an image does not depend on the others.
"""

import itertools
import math
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relearn.model.config import TrainConfig
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import ConfigError
from relearn.model.networks import custom

if TYPE_CHECKING:
    import pandas as pd

Shape = tuple[int, int, int]

# 400 MB of float32, four times that with gradients and momentum: more than the largest network that
# makes sense on images of 256 pixels a side, less than what brings a laptop down.
MAX_PARAMETERS = 100_000_000


class MLP(nn.Sequential):
    """Dense layers with ReLU between them; 784-512-10 has 407,050 parameters."""

    flat_input = True

    def __init__(self, config: TrainConfig, shape: Shape, classes: int) -> None:
        widths = [math.prod(shape), *config.hidden_sizes]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            layers |= _dense_block(f"{index}", inputs, outputs, config)
        layers["output"] = nn.Linear(widths[-1], classes)
        super().__init__(layers)


class CNN(nn.Sequential):
    """Convolutions without padding, each with a 2×2 max pool; dense 100.

    On 1×28×28 it has 542,230 parameters with 32 filters of 3×3. The pool stands before the ReLU: both
    orders give the same values and gradients, since ReLU is monotonous, and this one applies ReLU to a
    quarter of the numbers. Raises `ConfigError` where an image is too small for the convolutions.
    """

    flat_input = False

    def __init__(self, config: TrainConfig, shape: Shape, classes: int) -> None:
        channels, *sides = shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, filters in enumerate(config.conv_channels, start=1):
            sides = [(side - config.kernel_size + 1) // 2 for side in sides]
            if min(sides) < 1:
                kernel = f"{config.kernel_size}×{config.kernel_size}"
                raise ConfigError(
                    [
                        f"filters: got {len(config.conv_channels)} convolutions of {kernel}, each with a"
                        f" pool, accepted: {index - 1 or 'none'} for images of {shape[1]}×{shape[2]}"
                    ]
                )
            layers |= _convolution_block("" if index == 1 else f"{index}", channels, filters, config)
            channels = filters
        layers["flatten"] = nn.Flatten()
        layers |= _dense_block("dense", channels * math.prod(sides), 100, config)
        layers["output"] = nn.Linear(100, classes)
        super().__init__(layers)
        self.allow_micro_batches = not config.batch_norm


def _convolution_block(
    suffix: str, channels: int, filters: int, config: TrainConfig
) -> OrderedDict[str, nn.Module]:
    convolution = nn.Conv2d(channels, filters, config.kernel_size)
    layers: OrderedDict[str, nn.Module] = OrderedDict({f"convolution{suffix}": convolution})
    if config.batch_norm:
        layers[f"batch_norm{suffix}"] = nn.BatchNorm2d(filters)
    layers |= {f"pool{suffix}": nn.MaxPool2d(2), f"relu{suffix}": nn.ReLU()}
    return layers


def _dense_block(name: str, inputs: int, outputs: int, config: TrainConfig) -> OrderedDict[str, nn.Module]:
    prefix = f"hidden{name}" if name.isdigit() else name
    layers: OrderedDict[str, nn.Module] = OrderedDict({prefix: nn.Linear(inputs, outputs)})
    if config.batch_norm:
        layers[f"{prefix}_batch_norm"] = nn.BatchNorm1d(outputs)
    layers[f"{prefix}_relu"] = nn.ReLU()
    if config.dropout:
        layers[f"{prefix}_dropout"] = nn.Dropout(config.dropout)
    return layers


def build_network(
    config: TrainConfig, shape: Shape, classes: int, custom_class: type[nn.Module] | None = None
) -> nn.Module:
    """Make the network that `config` names, its first weights drawn from `config.seed`.

    `own` is the class of the user's, where it is not to be looked for under its name.

    Raises `ConfigError` for an unknown name, a network of more than `MAX_PARAMETERS` or a class of the
    user's that cannot be used, `NotFoundError` for one that is not there.
    """
    constructor = custom_class or get_network_class(config.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.network in NETWORKS:
            _check_size(constructor, config, shape, classes)
            network = constructor(config, shape, classes)
        else:
            network = custom.instantiate_and_check(constructor, config.network, shape, classes)
        if config.weight_init == "keras":
            network.apply(_init_glorot)
    return network


def _check_size(constructor: type[nn.Module], config: TrainConfig, shape: Shape, classes: int) -> None:
    with torch.device("meta"):  # counts without allocating
        parameters = count_parameters(constructor(config, shape, classes))
    if parameters > MAX_PARAMETERS:
        raise ConfigError(
            [f"network: {config.network} would have {parameters:,} parameters, accepted: {MAX_PARAMETERS:,}"]
        )


def get_network_class(name: str) -> type[nn.Module]:
    """The class behind `name`; only a class named by the user is ever imported."""
    if name in NETWORKS:
        return NETWORKS[name]
    if not re.fullmatch(r"[\w.]+:\w+", name):
        accepted = f"{', '.join(NETWORKS)} or a class of your own as package.module:Class"
        raise ConfigError([f"network: got {name!r}, accepted: {accepted}"])
    return custom.import_network(name)


def _init_glorot(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def count_parameters(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def summarize_layers(network: nn.Module, shape: Shape) -> "pd.DataFrame":
    """One row a layer: name, kind, output shape, activation, parameters.

    An activation is told in the row of the layer it follows; the softmax of the last one is the
    classifier's, since the network gives logits.
    """
    import pandas as pd  # a server that answers does without

    rows: list[list[Any]] = []

    def record_layer(name: str, layer: nn.Module, output: Tensor) -> None:
        kind = type(layer).__name__
        if type(layer).__module__ == "torch.nn.modules.activation" and rows:
            rows[-1][3] = kind
        else:
            rows.append([name, kind, tuple(output.shape[1:]), "", count_parameters(layer)])

    hooks = [
        leaf.register_forward_hook(
            lambda layer, _, output, name=name: record_layer(name or "network", layer, output)
        )
        for name, leaf in network.named_modules()
        if not any(leaf.children())
    ]
    was_training, device = network.training, next(network.parameters()).device
    try:
        network.eval()
        with torch.no_grad():
            network(
                to_unit_float(
                    torch.zeros(1, *shape, dtype=torch.uint8, device=device), expects_flat_input(network)
                )
            )
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if rows:
        rows[-1][3] = "Softmax"
    return pd.DataFrame(rows, columns=["name", "kind", "output shape", "activation", "parameters"])


NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": CNN}
