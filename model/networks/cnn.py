"""CNN: convolution, max pool and ReLU blocks, then one dense layer of 100 units."""

import math
from collections import OrderedDict

from torch import nn

from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError
from relearn.model.networks.mlp import build_dense_layers

DENSE_UNITS = 100
GRAY_CHANNELS = (32,)
# Accuracy on 1,050 test images after 15 epochs on 4,158 of CIFAR-10, one seed: 32 without batch normalization
# 44.7 % (12 s on one core), 32 64 128 with it 59.1 % (30 s).
COLOR_CHANNELS = (32, 64, 128)


class CNN(nn.Sequential):
    """Convolutions without padding, each with a 2×2 max pool; then a dense layer of 100 units.

    By default gray images get one convolution, color images three with batch normalization, or as many as
    their size allows. With 32 filters of 3×3 on 1×28×28 it has 542,230 parameters. The pool comes before the
    ReLU: both orders give the same values and gradients, since ReLU is monotonic, and this one applies it to
    a quarter of the values. Raises `ConfigError` if the images are too small for the convolutions.
    """

    flat_input = False

    def __init__(self, config: TrainConfig, shape: tuple[int, int, int], classes: int) -> None:
        channels, *sides = shape
        conv_channels = config.conv_channels or choose_channels(shape, config.kernel_size)
        if config.batch_norm is None:
            config = config.model_copy(update={"batch_norm": channels == 3})
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, filters in enumerate(conv_channels, start=1):
            sides = [_shrink(side, config.kernel_size) for side in sides]
            if min(sides) < 1:
                kernel = f"{config.kernel_size}×{config.kernel_size}"
                raise ConfigError(
                    [
                        f"conv_channels: got {len(conv_channels)} convolutions of {kernel}, each with"
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


def choose_channels(shape: tuple[int, int, int], kernel_size: int) -> tuple[int, ...]:
    """Return the output channels of the convolutions for images of `shape` (channels, height, width)."""
    if shape[0] != 3:
        return GRAY_CHANNELS
    count, side = 0, min(shape[1:])
    while (side := _shrink(side, kernel_size)) > 0 and count < len(COLOR_CHANNELS):
        count += 1
    return COLOR_CHANNELS[: max(1, count)]


def _shrink(side: int, kernel_size: int) -> int:
    """Return the side of the output of a convolution and its pool, in pixels."""
    return (side - kernel_size + 1) // 2


def _build_convolution_layers(
    suffix: str, channels: int, filters: int, config: TrainConfig
) -> OrderedDict[str, nn.Module]:
    convolution = nn.Conv2d(channels, filters, config.kernel_size)
    layers: OrderedDict[str, nn.Module] = OrderedDict({f"convolution{suffix}": convolution})
    if config.batch_norm:
        layers[f"batch_norm{suffix}"] = nn.BatchNorm2d(filters)
    layers |= {f"pool{suffix}": nn.MaxPool2d(2), f"relu{suffix}": nn.ReLU()}
    return layers
