"""The examples that are explained: a drawn network of a few units, or one picture in a real network."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from relearn.model import backprop
from relearn.model.backprop import Layer
from relearn.model.errors import InputError
from relearn.model.explain import Explanation, explain
from relearn.model.preprocess import is_flat, scale


def worked_example(
    sizes: Sequence[int], steps: int = 100, learning_rate: float = 0.5, momentum: float = 0.0, seed: int = 0
) -> Explanation:
    """A network of `sizes` units a layer, inputs first, and one example, both drawn from `seed`.

    Inputs are in 0.1–1, weights within ±√(6/in) (He et al. 2015, which keeps ReLU layers alive) and ±1,
    biases in 0–0.2, the target is one class, or 0 or 1 for a single output. A hidden layer is drawn again
    until half of its units are active, since nothing flows back through the others. All numbers are
    rounded to two decimals: those shown are those used, and can be followed with pencil and paper.
    """
    draw = torch.Generator().manual_seed(seed)
    label = int(torch.randint(max(2, sizes[-1]), (1,), generator=draw))
    example = _uniform((1, sizes[0]), 0.1, 1.0, draw)
    layers: list[Layer] = []
    entering = example
    for inputs, outputs in itertools.pairwise(sizes):
        layer = _draw_layer(inputs, outputs, draw)
        hidden = len(layers) < len(sizes) - 2
        while hidden and 2 * backprop.relu_slope(_sums(layer, entering)).sum() < outputs:
            layer = _draw_layer(inputs, outputs, draw)
        layers.append(layer)
        entering = _sums(layer, entering).clamp(min=0)
    return explain(layers, example, target(label, sizes[-1]), steps, learning_rate, momentum)


def _sums(layer: Layer, entering: Tensor) -> Tensor:
    return backprop.forward([layer], entering).z[0]


def _draw_layer(inputs: int, outputs: int, draw: torch.Generator) -> Layer:
    bound = min(1.0, math.sqrt(6 / inputs))
    weight = _uniform((outputs, inputs), -bound, bound, draw)
    return Layer(weight, _uniform((outputs,), 0.0, 0.2, draw))


def _uniform(shape: tuple[int, ...], low: float, high: float, draw: torch.Generator) -> Tensor:
    return (low + (high - low) * torch.rand(shape, generator=draw, dtype=torch.float64)).round(decimals=2)


def untrained(sizes: Sequence[int], seed: int = 0) -> nn.Sequential:
    """Dense layers of `sizes` with ReLU between them, first weights drawn from `seed`, for pictures."""
    modules: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for inputs, outputs in itertools.pairwise(sizes):
            modules += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def picture_example(
    network: nn.Module,
    image: np.ndarray,
    label: str,
    classes: Sequence[str],
    steps: int = 100,
    learning_rate: float = 0.5,
    momentum: float = 0.0,
) -> Explanation:
    """One image, uint8 (channels, height, width), through the dense layers of `network`.

    `label` is its class among `classes`. For an mlp the inputs are the pixels, for a cnn its pooled
    features, whose convolution then stays as it is. `network` is not changed. `InputError` for a label
    that is no class, and where the dense layers are no chain with ReLU.
    """
    if label not in classes:
        raise InputError(f"label: got {label!r}, accepted: {', '.join(classes)[:200]}")
    layers = backprop.dense_layers(network)
    pixels = scale(torch.from_numpy(image.copy())[None], is_flat(network)).to(layers[0].weight.device)
    modes = [(module, module.training) for module in network.modules()]
    features = backprop.dense_inputs(network.eval(), pixels)
    for module, training in modes:
        module.training = training
    wanted = target(classes.index(label), len(layers[-1].weight))
    return explain(layers, features.cpu(), wanted, steps, learning_rate, momentum, classes)


def compare_rates(
    explanation: Explanation, rates: Sequence[float], steps: int = 100, seed: int = 0
) -> pd.DataFrame:
    """What the learning rate does: columns learning_rate, step, loss, in the form of `loss_table`.

    From the first weights of the explanation each rate learns the same 16 examples, which pull in several
    directions; on a single one the longest step would always look best. Their inputs are in 0–1, and
    their class tells how large the sum of the inputs is.
    """
    sizes = explanation.sizes
    classes, draw = max(2, sizes[-1]), torch.Generator().manual_seed(seed)
    inputs = torch.rand(16, sizes[0], generator=draw, dtype=torch.float64)
    ranks = inputs.sum(dim=1).argsort().argsort()
    targets = torch.cat([target(int(rank) * classes // 16, sizes[-1]) for rank in ranks])
    runs = [explain(explanation.layers, inputs, targets, steps, rate, explanation.momentum) for rate in rates]
    return pd.concat([run.loss_table() for run in runs], ignore_index=True)


def target(label: int, outputs: int) -> Tensor:
    """Y of one example, float64 (1, outputs): one-hot, or the label itself (0 or 1) for a single output."""
    if outputs == 1:
        return torch.tensor([[float(label)]], dtype=torch.float64)
    return torch.eye(outputs, dtype=torch.float64)[label : label + 1]
