"""Worked examples of backpropagation: every number of one SGD step, as tables.

One example goes through a small random network, or one image through a real network. All numbers are
float64 and computed by `relearn.model.backprop.deltas`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from relearn.model.backprop import deltas as backprop
from relearn.model.backprop.deltas import DenseLayer, ForwardPass
from relearn.model.data.transforms import expects_flat_input, to_unit_float
from relearn.model.errors import UserInputError

MAX_PRODUCTS = 6  # a longer weighted sum is abbreviated to the number of its products


@dataclass(frozen=True)
class WorkedExample:
    """The first SGD step on one example, and the loss of all steps.

    inputs, targets   float64, (1, in) and (1, out)
    layers            weights and biases before the first step
    losses            in nats: before each step and after the last
    classes           names of the outputs; () for numbered outputs
    """

    inputs: Tensor
    targets: Tensor
    layers: tuple[DenseLayer, ...]
    learning_rate: float
    momentum: float
    losses: tuple[float, ...]
    classes: tuple[str, ...] = ()

    @cached_property
    def forward_pass(self) -> ForwardPass:
        """Pre-activations and activations before the first step."""
        return backprop.forward(self.layers, self.inputs)

    @cached_property
    def deltas(self) -> list[Tensor]:
        """δ_k, (1, out_k), before the first step."""
        return backprop.deltas(self.layers, self.forward_pass, self.targets)

    @cached_property
    def gradients(self) -> list[DenseLayer]:
        """∂L/∂W and ∂L/∂b before the first step."""
        return backprop.gradients(self.layers, self.forward_pass, self.targets)

    @cached_property
    def updated(self) -> list[DenseLayer]:
        """Weights and biases after the first step. Momentum has no effect on it."""
        return backprop.sgd_step(self.layers, self.gradients, None, self.learning_rate, self.momentum)[0]

    @property
    def autograd_error(self) -> float:
        """Largest absolute difference between a δ and torch's autograd."""
        z = backprop.forward(self.layers, self.inputs.clone().requires_grad_()).pre_activations
        expected = torch.autograd.grad(backprop.loss(z[-1], self.targets), z)
        pairs = zip(self.deltas, expected, strict=True)
        return max((delta - autograd).abs().max().item() for delta, autograd in pairs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer, inputs first."""
        return (self.inputs.shape[1], *(len(layer.weight) for layer in self.layers))

    @property
    def output_function(self) -> str:
        return "sigmoid" if self.sizes[-1] == 1 else "softmax"

    @property
    def unit_names(self) -> list[list[str]]:
        """Names of the units: inputs X1 …, hidden N11 … (layer 1, unit 1), outputs O1 … or O(class)."""
        dot = "." if max(self.sizes) > 9 else ""
        letters = ["X", *(f"N{k}{dot}" for k in range(1, len(self.layers))), "O"]
        names = [
            [f"{letter}{unit + 1}" for unit in range(size)]
            for letter, size in zip(letters, self.sizes, strict=True)
        ]
        if len(self.classes) == self.sizes[-1]:
            names[-1] = [f"O({name})" for name in self.classes]
        return names

    def forward_table(self) -> pd.DataFrame:
        """Return a row per unit: unit, computation as text, pre-activation z, activation."""
        rows: list[tuple[str, str, float, float]] = []
        for k, layer in enumerate(self.layers):
            inputs, outputs = (a[0].tolist() for a in self.forward_pass.activations[k : k + 2])
            biases = [0.0] * len(outputs) if layer.bias is None else layer.bias.tolist()
            sums = map(_weighted_sum, layer.weight.tolist(), itertools.repeat(inputs), biases)
            z = self.forward_pass.pre_activations[k][0].tolist()
            rows += zip(self.unit_names[k + 1], sums, z, outputs, strict=True)
        return pd.DataFrame(rows, columns=["unit", "computation", "z", "activation"])

    def error_table(self) -> pd.DataFrame:
        """Return a row per output: unit, output O, target Y, error O − Y."""
        output, target = self.forward_pass.output[0].numpy(), self.targets[0].numpy()
        columns = {"unit": self.unit_names[-1], "output": output, "target": target, "error": output - target}
        return pd.DataFrame(columns)

    def delta_table(self) -> pd.DataFrame:
        """Return a row per unit, outputs first: unit, upstream_gradient, relu_grad, delta.

        The upstream gradient of a hidden layer is δ_{k+1} W_{k+1}. Outputs have no ReLU: relu_grad is NA
        and δ is the error O − Y.
        """
        rows: list[tuple[object, ...]] = []
        for k in reversed(range(len(self.layers))):
            upstream, grad = self.deltas[k], [pd.NA] * len(self.layers[k].weight)
            if k + 1 < len(self.layers):
                upstream = self.deltas[k + 1] @ self.layers[k + 1].weight
                grad = backprop.relu_grad(self.forward_pass.pre_activations[k])[0].int().tolist()
            values = (self.unit_names[k + 1], upstream[0].tolist(), grad, self.deltas[k][0].tolist())
            rows += zip(*values, strict=True)
        columns = ["unit", "upstream_gradient", "relu_grad", "delta"]
        return pd.DataFrame(rows, columns=columns).astype({"relu_grad": "Int64"})

    def update_table(self) -> pd.DataFrame:
        """Return a row per weight and bias of the first step: from, to, before, gradient, after."""
        tables = []
        for k, states in enumerate(zip(self.layers, self.gradients, self.updated, strict=True)):
            sources, values = self.unit_names[k], [state.weight.T for state in states]
            biases = [state.bias for state in states if state.bias is not None]
            if biases:
                sources = [*sources, "bias"]
                values = [torch.vstack(pair) for pair in zip(values, biases, strict=True)]
            units = itertools.product(sources, self.unit_names[k + 1])
            table = pd.DataFrame(units, columns=["from", "to"])
            before, gradient, after = (value.flatten().numpy() for value in values)
            tables.append(table.assign(before=before, gradient=gradient, after=after))
        return pd.concat(tables, ignore_index=True)


def trace_sgd(
    layers: Sequence[DenseLayer],
    inputs: Tensor,
    targets: Tensor,
    steps: int = 100,
    learning_rate: float = 0.5,
    momentum: float = 0.0,
    classes: Sequence[str] = (),
) -> WorkedExample:
    """Take `steps` ≥ 1 SGD steps on inputs (n, in) and targets (n, out); the tables and plots need n = 1."""
    start = tuple(
        DenseLayer(layer.weight.cpu().double(), None if layer.bias is None else layer.bias.cpu().double())
        for layer in layers
    )
    inputs, targets = inputs.cpu().double(), targets.double()
    current: Sequence[DenseLayer] = start
    velocity = None
    losses = []
    for step in range(steps + 1):
        forward_pass = backprop.forward(current, inputs)
        losses.append(backprop.loss(forward_pass.pre_activations[-1], targets).item())
        if step < steps:
            gradients = backprop.gradients(current, forward_pass, targets)
            current, velocity = backprop.sgd_step(current, gradients, velocity, learning_rate, momentum)
    return WorkedExample(inputs, targets, start, learning_rate, momentum, tuple(losses), tuple(classes))


def random_example(
    sizes: Sequence[int], steps: int = 100, learning_rate: float = 0.5, momentum: float = 0.0, seed: int = 0
) -> WorkedExample:
    """Draw a network of `sizes` units per layer (inputs first) and one example from `seed`.

    Inputs are in 0.1–1, weights within ±√(6/in) (He et al. 2015) but at most ±1, biases in 0–0.2; the target
    is one class, or 0 or 1 for a single output. A hidden layer is redrawn until half of its units are active,
    because no gradient flows through the others. All numbers are rounded to two decimals, so that the
    printed numbers can be recomputed with pencil and paper.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        values = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * values).round(decimals=2)

    label = int(torch.randint(max(2, sizes[-1]), (1,), generator=generator))
    inputs = activation = uniform(0.1, 1.0, 1, sizes[0])
    layers: list[DenseLayer] = []
    while len(layers) < len(sizes) - 1:
        fan_in, fan_out = sizes[len(layers) : len(layers) + 2]
        bound = min(1.0, math.sqrt(6 / fan_in))
        layer = DenseLayer(uniform(-bound, bound, fan_out, fan_in), uniform(0.0, 0.2, fan_out))
        z = backprop.forward([layer], activation).pre_activations[0]
        if len(layers) == len(sizes) - 2 or 2 * backprop.relu_grad(z).sum() >= fan_out:
            layers.append(layer)
            activation = z.clamp(min=0)
    return trace_sgd(layers, inputs, one_hot(label, sizes[-1]), steps, learning_rate, momentum)


def random_mlp(sizes: Sequence[int], seed: int = 0) -> nn.Sequential:
    """Build dense layers of `sizes` with ReLU between them; torch's initial weights for `seed`."""
    modules: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fan_in, fan_out in itertools.pairwise(sizes):
            modules += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def image_example(
    network: nn.Module,
    image: np.ndarray,
    label: str,
    classes: Sequence[str],
    steps: int = 100,
    learning_rate: float = 0.5,
    momentum: float = 0.0,
) -> WorkedExample:
    """Trace one image, uint8 (channels, height, width), through the dense layers of `network`.

    The inputs are the pixels for an mlp, and the flattened features for a cnn, whose convolutions are not
    updated. `network` is not changed. Raises `UserInputError` if `label` is not one of `classes`, or if the
    dense layers are not a chain with ReLU.
    """
    if label not in classes:
        raise UserInputError(f"label: got {label!r}, accepted: {', '.join(classes)[:200]}")
    layers = backprop.dense_layers(network)
    pixels = to_unit_float(torch.from_numpy(image.copy())[None], expects_flat_input(network)).to(
        layers[0].weight.device
    )
    modes = [(module, module.training) for module in network.modules()]
    inputs = backprop.capture_dense_inputs(network.eval(), pixels)
    for module, training in modes:
        module.training = training
    targets = one_hot(classes.index(label), len(layers[-1].weight))
    return trace_sgd(layers, inputs, targets, steps, learning_rate, momentum, classes)


def compare_learning_rates(
    example: WorkedExample, rates: Sequence[float], steps: int = 100, seed: int = 0
) -> dict[float, tuple[float, ...]]:
    """Return the losses of `steps` SGD steps for each learning rate, from the weights of `example`.

    All rates train on the same 16 random examples. A single example would favor the largest rate. Inputs are
    in 0–1; the class ranks the sum of the inputs.
    """
    outputs = example.sizes[-1]
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(16, example.sizes[0], generator=generator, dtype=torch.float64)
    ranks = inputs.sum(dim=1).argsort().argsort().tolist()
    targets = torch.cat([one_hot(rank * max(2, outputs) // 16, outputs) for rank in ranks])
    return {
        rate: trace_sgd(example.layers, inputs, targets, steps, rate, example.momentum).losses
        for rate in rates
    }


def one_hot(label: int, outputs: int) -> Tensor:
    """Return Y of one example, float64 (1, outputs); the label itself (0 or 1) for a single output."""
    if outputs == 1:
        return torch.tensor([[float(label)]], dtype=torch.float64)
    return torch.eye(outputs, dtype=torch.float64)[label : label + 1]


def format_number(value: float, decimals: int = 2) -> str:
    """Format with a fixed number of decimals and a typographic minus sign; never −0."""
    return f"{value:z.{decimals}f}".replace("-", "−")


def _weighted_sum(weights: list[float], inputs: list[float], bias: float) -> str:
    """Write w·x + … + b, such as "0.90·0.14 − 0.53·0.82 + 0.13"."""
    terms = [f"{w:+.2f}·{x:.2f}" for w, x in zip(weights, inputs, strict=True)]
    if len(terms) > MAX_PRODUCTS:
        terms = [f"{len(terms):,} products"]
    text = " ".join([*terms, f"{bias:+.2f}"]).removeprefix("+")
    return text.replace(" +", " + ").replace(" -", " - ").replace("-", "−")
