"""CNN: convolution, max pool and ReLU blocks, then one dense layer of 100 units."""

import math
from collections import OrderedDict

from torch import nn

from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError
from relearn.model.networks.mlp import build_dense_layers

DENSE_UNITS = 100


class CNN(nn.Sequential):
    """Convolutions without padding, each with a 2×2 max pool; then a dense layer of 100 units.

    With 32 filters of 3×3 on 1×28×28 it has 542,230 parameters. The pool comes before the ReLU: both
    orders give the same values and gradients, since ReLU is monotonic, and this one applies ReLU to a
    quarter of the values. Raises `ConfigError` if the images are too small for the convolutions.
    """

    flat_input = False

    def __init__(self, config: TrainConfig, shape: tuple[int, int, int], classes: int) -> None:
        channels, *sides = shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, filters in enumerate(config.conv_channels, start=1):
            sides = [(side - config.kernel_size + 1) // 2 for side in sides]
            if min(sides) < 1:
                kernel = f"{config.kernel_size}×{config.kernel_size}"
                raise ConfigError(
                    [
                        f"conv_channels: got {len(config.conv_channels)} convolutions of {kernel}, each with"
                        f" a pool, accepted: {index - 1 or 'none'} for images of {shape[1]}×{shape[2]}"
                    ]
                )
            layers |= _build_convolution_layers("" if index == 1 else f"{index}", channels, filters, config)
            channels = filters
        layers["flatten"] = nn.Flatten()
        layers |= build_dense_layers("dense", channels * math.prod(sides), DENSE_UNITS, config)
        layers["output"] = nn.Linear(DENSE_UNITS, classes)
        super().__init__(layers)
        self.allow_micro_batches = not config.batch_norm


def _build_convolution_layers(
    suffix: str, channels: int, filters: int, config: TrainConfig
) -> OrderedDict[str, nn.Module]:
    convolution = nn.Conv2d(channels, filters, config.kernel_size)
    layers: OrderedDict[str, nn.Module] = OrderedDict({f"convolution{suffix}": convolution})
    if config.batch_norm:
        layers[f"batch_norm{suffix}"] = nn.BatchNorm2d(filters)
    layers |= {f"pool{suffix}": nn.MaxPool2d(2), f"relu{suffix}": nn.ReLU()}
    return layers
