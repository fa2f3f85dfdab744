"""Lower bound of an epoch: its matrix products alone.

Each layer has three products of matrices in float32: its output, the gradient of its weights and, but for
the first layer, the gradient of its input; evaluation needs only the first. A
convolution counts as the product of its patches with its filters.
"""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.types import EpochEndCallback, Settings, Split
from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.networks.registry import build_network


def train(
    settings: Settings, train_split: Split, validation_split: Split, on_epoch_end: EpochEndCallback
) -> None:
    devices.set_num_threads(None)
    config = TrainConfig.parse(settings)
    sizes = layer_sizes(
        build_network(config, train_split[0].shape[1:], classes=10), train_split[0][: config.batch_size]
    )
    layers = [(torch.randn(rows, inner), torch.randn(inner, outputs)) for rows, inner, outputs in sizes]
    outputs = [inputs @ weights for inputs, weights in layers]
    gradients = [(torch.empty_like(inputs), torch.empty_like(weights)) for inputs, weights in layers]
    while True:
        for _ in range(len(train_split[0]) // config.batch_size):
            forward(layers, outputs)
            for (inputs, weights), output, (input_gradient, weight_gradient) in zip(
                layers, outputs, gradients, strict=True
            ):
                torch.mm(inputs.T, output, out=weight_gradient)
                if inputs is not layers[0][0]:
                    torch.mm(output, weights.T, out=input_gradient)
        for _ in range(len(validation_split[0]) // config.batch_size):
            forward(layers, outputs)
        on_epoch_end(float("nan"))


def forward(layers: list[tuple[Tensor, Tensor]], outputs: list[Tensor]) -> None:
    for (inputs, weights), output in zip(layers, outputs, strict=True):
        torch.mm(inputs, weights, out=output)


def layer_sizes(network: nn.Module, images: np.ndarray) -> list[tuple[int, int, int]]:
    """Return rows, inner size and columns of the product of each layer, for a batch like `images`."""
    sizes = []

    def record(layer: nn.Module, _: object, output: Tensor) -> None:
        weights = next(layer.parameters())
        sizes.append((output.numel() // len(weights), weights.numel() // len(weights), len(weights)))

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(record)
    with torch.no_grad():
        network(to_unit_float(torch.tensor(images), expects_flat_input(network)))
    return sizes
