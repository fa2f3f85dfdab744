"""A worked example of backpropagation as plain tables: forward pass, error, deltas, update of the weights.

One example goes through a network of a few units (or one picture through a real network), and every number
on the way is kept. All are float64, computed by `relearn.model.backprop`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from relearn.model import backprop
from relearn.model.backprop import Forward, Layer

LONGEST_SUM = 6  # products that are written out; more of them are counted


@dataclass(frozen=True)
class Explanation:
    """The first of some steps of gradient descent in all its numbers, and the loss at each step.

    inputs               float64 (1, in);   targets  float64 (1, out)
    layers, updated      weights and biases before and after the first step
    passed, deltas       the forward pass and δ_k (1, out_k) of the first step
    gradients            ∂L/∂W and ∂L/∂b of the first step
    losses               in nats, before each step and after the last: one more than steps
    classes              names of the outputs where they have some
    """

    inputs: Tensor
    targets: Tensor
    learning_rate: float
    momentum: float
    layers: tuple[Layer, ...]
    passed: Forward
    deltas: tuple[Tensor, ...]
    gradients: tuple[Layer, ...]
    updated: tuple[Layer, ...]
    losses: tuple[float, ...]
    classes: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer, the inputs first."""
        return (self.inputs.shape[1], *(len(layer.weight) for layer in self.layers))

    @property
    def names(self) -> list[list[str]]:
        """Names of the units: inputs X1, X2 …, hidden ones N11, N12 … by layer, outputs O1 … or O(class)."""
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
        """A row for each unit: layer (from 1), unit, computation as text, sum Z, activation."""
        rows = []
        for k, (layer, z, activation) in enumerate(
            zip(self.layers, self.passed.z, self.passed.activations[1:], strict=True)
        ):
            function = "relu" if k < len(self.layers) - 1 else self.output_function
            entering = self.passed.activations[k][0].tolist()
            for unit, name in enumerate(self.names[k + 1]):
                bias = 0.0 if layer.bias is None else layer.bias[unit].item()
                text = _weighted_sum(layer.weight[unit].tolist(), entering, bias)
                rows.append((k + 1, name, text, z[0, unit].item(), function, activation[0, unit].item()))
        return pd.DataFrame(rows, columns=["layer", "unit", "computation", "sum", "function", "activation"])

    @property
    def output_function(self) -> str:
        return "sigmoid" if self.sizes[-1] == 1 else "softmax"

    def error_table(self) -> pd.DataFrame:
        """A row for each output: unit, output O, target Y, error O − Y."""
        output, target = self.passed.output[0].numpy(), self.targets[0].numpy()
        return pd.DataFrame(
            {"unit": self.names[-1], "output": output, "target": target, "error": output - target}
        )

    def delta_table(self) -> pd.DataFrame:
        """A row for each unit, the outputs first: layer, unit, what came back, slope of relu, delta.

        What comes back to a hidden unit is (δ_{k+1} W_{k+1}); to an output its error O − Y, whose slope
        is in it already (missing).
        """
        rows = []
        for k in reversed(range(len(self.layers))):
            delta, last = self.deltas[k][0], k == len(self.layers) - 1
            back = delta if last else (self.deltas[k + 1] @ self.layers[k + 1].weight)[0]
            slope = torch.full_like(delta, math.nan) if last else backprop.relu_slope(self.passed.z[k][0])
            values = zip(self.names[k + 1], back.tolist(), slope.tolist(), delta.tolist(), strict=True)
            rows += [(k + 1, *row) for row in values]
        table = pd.DataFrame(rows, columns=["layer", "unit", "came_back", "slope", "delta"])
        return table.astype({"slope": "Int64"})

    def update_table(self) -> pd.DataFrame:
        """A row for each weight and bias: layer, from, to, before, gradient, after the first step."""
        tables = []
        for k, (layer, slope, after) in enumerate(
            zip(self.layers, self.gradients, self.updated, strict=True)
        ):
            weights = [layer.weight, slope.weight, after.weight]
            tables.append(self._updates(k, self.names[k], [weight.T for weight in weights]))
            if layer.bias is not None and slope.bias is not None and after.bias is not None:
                tables.append(self._updates(k, ["bias"], [layer.bias, slope.bias, after.bias]))
        return pd.concat(tables, ignore_index=True)

    def _updates(self, k: int, sources: list[str], values: Sequence[Tensor]) -> pd.DataFrame:
        ends = self.names[k + 1]
        before, gradient, after = (value.flatten().numpy() for value in values)
        return pd.DataFrame(
            {
                "layer": k + 1,
                "from": np.repeat(sources, len(ends)),
                "to": np.tile(ends, len(sources)),
                "before": before,
                "gradient": gradient,
                "after": after,
            }
        )

    def loss_table(self) -> pd.DataFrame:
        """Columns learning_rate, step (0 is before the first), loss in nats."""
        return pd.DataFrame(
            {
                "learning_rate": self.learning_rate,
                "step": range(len(self.losses)),
                "loss": self.losses,
            }
        )


def explain(
    layers: Sequence[Layer],
    inputs: Tensor,
    targets: Tensor,
    steps: int = 100,
    learning_rate: float = 0.5,
    momentum: float = 0.0,
    classes: Sequence[str] = (),
) -> Explanation:
    """Take `steps` ≥ 1 steps on inputs (n, in) and targets (n, out), and keep the first.

    With n = 1, as the tables and drawings want it, δ of the output is O − Y itself.
    """
    first = tuple(_double(layer) for layer in layers)
    inputs, targets = inputs.double(), targets.double()
    current, velocity, losses = list(first), None, []
    for _ in range(steps):
        passed = backprop.forward(current, inputs)
        losses.append(backprop.loss(passed.z[-1], targets).item())
        slopes = backprop.gradients(current, passed, targets)
        current, velocity = backprop.step(current, slopes, velocity, learning_rate, momentum)
    losses.append(backprop.loss(backprop.forward(current, inputs).z[-1], targets).item())

    passed = backprop.forward(first, inputs)
    slopes = backprop.gradients(first, passed, targets)
    updated, _ = backprop.step(first, slopes, None, learning_rate, momentum)
    return Explanation(
        inputs=inputs,
        targets=targets,
        learning_rate=learning_rate,
        momentum=momentum,
        layers=first,
        passed=passed,
        deltas=tuple(backprop.deltas(first, passed, targets)),
        gradients=tuple(slopes),
        updated=tuple(updated),
        losses=tuple(losses),
        classes=tuple(classes),
    )


def _double(layer: Layer) -> Layer:
    bias = None if layer.bias is None else layer.bias.double().cpu()
    return Layer(layer.weight.double().cpu(), bias)


def _weighted_sum(weights: list[float], entering: list[float], bias: float) -> str:
    if len(weights) > LONGEST_SUM:
        return f"{len(weights):,} products {_signed(bias)}"
    products = [
        f"{_number(weight)}·{_number(value)}" for weight, value in zip(weights, entering, strict=True)
    ]
    return " + ".join(products) + f" {_signed(bias)}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if value >= 0 else f"(−{-value:.2f})"


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'} {abs(value):.2f}"
