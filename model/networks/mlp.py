"""MLP: hidden dense layers with ReLU, then a dense output layer."""

import itertools
import math
from collections import OrderedDict

from torch import nn

from relearn.model.config import TrainConfig


class MLP(nn.Sequential):
    """Dense layers with ReLU between them; 784-512-10 has 407,050 parameters."""

    flat_input = True

    def __init__(self, config: TrainConfig, shape: tuple[int, int, int], classes: int) -> None:
        widths = [math.prod(shape), *config.hidden_sizes]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            layers |= build_dense_layers(f"hidden{index}", inputs, outputs, config)
        layers["output"] = nn.Linear(widths[-1], classes)
        super().__init__(layers)


def build_dense_layers(
    name: str, inputs: int, outputs: int, config: TrainConfig
) -> OrderedDict[str, nn.Module]:
    """Return the layers of a hidden dense layer: linear, batch norm if set, ReLU, dropout if set."""
    layers: OrderedDict[str, nn.Module] = OrderedDict({name: nn.Linear(inputs, outputs)})
    if config.batch_norm:
        layers[f"{name}_batch_norm"] = nn.BatchNorm1d(outputs)
    layers[f"{name}_relu"] = nn.ReLU()
    if config.dropout:
        layers[f"{name}_dropout"] = nn.Dropout(config.dropout)
    return layers
