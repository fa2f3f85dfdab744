"""What an epoch cannot do without: its matrix products, and nothing else.

Each layer has three products of matrices in float32: its output, the gradient of its weights and, but for
the first layer, the gradient of its input; the look at the validation images takes the first alone. A
convolution counts as the product of its patches with its filters.
"""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.types import EpochDone, Part, Settings
from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.networks.registry import build_network


def train(settings: Settings, learn: Part, look: Part, epoch_done: EpochDone) -> None:
    devices.set_num_threads(None)
    config = TrainConfig.parse(settings)
    sizes = layer_sizes(build_network(config, learn[0].shape[1:], classes=10), learn[0][: config.batch_size])
    layers = [(torch.randn(rows, inner), torch.randn(inner, outputs)) for rows, inner, outputs in sizes]
    outputs = [inputs @ weights for inputs, weights in layers]
    gradients = [(torch.empty_like(inputs), torch.empty_like(weights)) for inputs, weights in layers]
    while True:
        for _ in range(len(learn[0]) // config.batch_size):
            forward(layers, outputs)
            for (inputs, weights), output, (of_inputs, of_weights) in zip(
                layers, outputs, gradients, strict=True
            ):
                torch.mm(inputs.T, output, out=of_weights)
                if inputs is not layers[0][0]:
                    torch.mm(output, weights.T, out=of_inputs)
        for _ in range(len(look[0]) // config.batch_size):
            forward(layers, outputs)
        epoch_done(float("nan"))


def forward(layers: list[tuple[Tensor, Tensor]], outputs: list[Tensor]) -> None:
    for (inputs, weights), output in zip(layers, outputs, strict=True):
        torch.mm(inputs, weights, out=output)


def layer_sizes(network: nn.Module, images: np.ndarray) -> list[tuple[int, int, int]]:
    """Rows, inner length and columns of each layer's product, for a batch like `images`."""
    sizes = []

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        weights = next(layer.parameters())
        sizes.append((output.numel() // len(weights), weights.numel() // len(weights), len(weights)))

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.no_grad():
        network(to_unit_float(torch.tensor(images), expects_flat_input(network)))
    return sizes
