"""EfficientNet-Lite: the backbones of `pretrained`, made for CPUs.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; Lite is
Google's variant of 2020 without squeeze-and-excitation. There is no batch norm: in a frozen network its
values are constants, which `pretrained_weights` folds into the convolutions. An image takes 18 ms of a core,
with batch norm 22 ms.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

STEM_CHANNELS, FEATURES = 32, 1280  # channels of the first and the last convolution


class Scale(NamedTuple):
    """Size of a variant: factors of width and depth, and the side that it was trained with, in pixels."""

    width: float
    depth: float
    side: int


class Stage(NamedTuple):
    """Blocks in a row; `stride` is that of the first, `expansion` the factor of channels inside a block."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


STAGES = (
    Stage(kernel=3, stride=1, expansion=1, channels=16, blocks=1),
    Stage(kernel=3, stride=2, expansion=6, channels=24, blocks=2),
    Stage(kernel=5, stride=2, expansion=6, channels=40, blocks=2),
    Stage(kernel=3, stride=2, expansion=6, channels=80, blocks=3),
    Stage(kernel=5, stride=1, expansion=6, channels=112, blocks=3),
    Stage(kernel=5, stride=2, expansion=6, channels=192, blocks=4),
    Stage(kernel=3, stride=1, expansion=6, channels=320, blocks=1),
)


class Convolution(nn.Conv2d):
    """Convolution whose output has the side of the input divided by the stride, rounded up.

    As in TensorFlow, where the weights come from, an odd pixel of padding is at the right and at the bottom.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, images: Tensor) -> Tensor:
        if self.stride[0] == 2:
            height, width = (self.kernel_size[0] - 2 + side % 2 for side in images.shape[2:])
            images = F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))
        output: Tensor = self._conv_forward(images, self.weight, self.bias)
        return output


class Block(nn.Sequential):
    """Inverted residual: expand the channels, filter each of them, project them to `outputs`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        channels = inputs * expansion
        expand = (Convolution(inputs, channels, 1), nn.ReLU6(inplace=True)) if expansion > 1 else ()
        depthwise = Convolution(channels, channels, kernel, stride, groups=channels)
        super().__init__(*expand, depthwise, nn.ReLU6(inplace=True), Convolution(channels, outputs, 1))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return output + images if self.is_residual else output


class EfficientNetLite(nn.Sequential):
    """Backbone from float32 images (n, 3, height, width) in -1–1 to features (n, 1280)."""

    def __init__(self, scale: Scale) -> None:
        layers: list[nn.Module] = [Convolution(3, STEM_CHANNELS, 3, stride=2), nn.ReLU6(inplace=True)]
        channels = STEM_CHANNELS
        for stage in STAGES:
            is_outer = stage in (STAGES[0], STAGES[-1])
            outputs = _scale_channels(stage.channels, scale.width)
            for index in range(stage.blocks if is_outer else math.ceil(stage.blocks * scale.depth)):
                stride = stage.stride if index == 0 else 1
                layers.append(Block(channels, outputs, stage.kernel, stride, stage.expansion))
                channels = outputs
        head = (Convolution(channels, FEATURES, 1), nn.ReLU6(inplace=True))
        super().__init__(*layers, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _scale_channels(channels: int, width: float) -> int:
    """Return the scaled number of channels, rounded to a multiple of 8, and down by at most a tenth."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
