"""Health of the gradients of a run: measured once an epoch on one fixed batch, judged at the end.

Any `nn.Module` can be measured: hooks see what its layers give, autograd what flows back. The network
is left untouched: weights, `.grad`, training mode and random state stay as they were.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# A layer whose weights move a thousand times slower, for their size, than those of another layer stands
# still while the other learns. Measured on MNIST at the start and after training: the mlp and the cnn
# 0.05 or more, three sigmoid layers 4e-3; five sigmoid layers 6e-5 and ten ReLU layers of 64 units 6e-4,
# and neither of those two learned anything in an epoch.
VANISHING_RATIO = 1e-3

# A gradient ten times as long as the weights: one step at learning rate 0.1 replaces them altogether.
# Measured likewise: the mlp and the cnn 0.25 or less; six layers with weights drawn three times too large
# 15 to 60.
EXPLODING_RATIO = 10.0

# A unit that is zero for every image of the batch passes no gradient for any of them and may never come
# back. With half of them gone the layer has half the width that was paid for. Measured likewise: the mlp
# 0.01 or less, the cnn 0.3; the mlp at a learning rate of 2 0.99.
DEAD_FRACTION = 0.5

COLUMNS = ["epoch", "layer", "delta", "weight", "weight_gradient", "bias_gradient", "relative", "dead"]

_RELUS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass(frozen=True)
class GradientReport:
    """What a table of measurements says: healthy where there is nothing to warn of."""

    warnings: tuple[str, ...]

    @property
    def is_healthy(self) -> bool:
        return not self.warnings

    def __str__(self) -> str:
        return "gradients: healthy" if self.is_healthy else "gradients: " + "; ".join(self.warnings)


def measure_gradients(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    epoch: int = 0,
    loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> pd.DataFrame:
    """One row for each layer that owns a weight matrix or filters, in the order of the network.

    `inputs` float (n, …) as the network takes them, `targets` as `loss` takes them; both are moved to
    the network's device. Columns, norms being L2 over the batch, NaN where nothing was to be seen,
    infinite where a number overflowed:

    epoch, layer        as given; name of the layer in the network
    delta               norm of δ = ∂L/∂Z, Z being what the layer gives before its activation
    weight              norm of its weights
    weight_gradient     norm of ∂L/∂W;   bias_gradient  norm of ∂L/∂b
    relative            weight_gradient / weight
    dead                share (0 to 1) of its ReLU units that are zero for all of the batch

    Measured in evaluation mode, dropout off and batch norm with its running statistics, so that two
    epochs differ by the weights alone. A layer called several times counts as one, all calls together.
    """
    device = next(network.parameters()).device
    inputs = inputs.detach().to(device)
    if inputs.is_floating_point():
        inputs.requires_grad_()  # so that δ is there even where the first layers are frozen
    with (
        _temporary_eval_mode(network),
        torch.enable_grad(),
        _LayerProbe(_find_weighted_layers(network)) as probe,
    ):
        loss_value = loss_function(network(inputs), targets.to(device))
    return pd.DataFrame(
        [{"epoch": epoch} | row for row in _measure_layers(probe, loss_value)], columns=COLUMNS
    )


def diagnose(health: pd.DataFrame) -> GradientReport:
    """Judge the rows of `measure`, of one epoch or several, against the thresholds of this module.

    One warning for each layer and trouble, with the number of epochs that show it and the worst of them.
    """
    max_ratio = health.groupby("epoch")["relative"].transform("max")
    table = health.assign(pace=(health["relative"] / max_ratio).fillna(health["relative"]))
    is_unbounded = np.isinf(table[["delta", "weight", "weight_gradient"]].to_numpy()).any(axis=1)
    exploding_rows = table[is_unbounded | (table["relative"] > EXPLODING_RATIO)]
    stable_rows = table[
        ~table["epoch"].isin(exploding_rows["epoch"])
    ]  # beside an explosion everything looks slow
    vanishing, dead = (
        stable_rows[stable_rows["pace"] < VANISHING_RATIO],
        table[table["dead"] >= DEAD_FRACTION],
    )
    warnings = (
        *_format_warnings(
            health, exploding_rows, "relative", "exploding, its gradient is {:.3g} × its weights"
        ),
        *_format_warnings(health, vanishing, "pace", "vanishing, at {:.2g} of the fastest layer's pace"),
        *_format_warnings(health, dead, "dead", "{:.0%} of its ReLU units are dead"),
    )
    return GradientReport(warnings)


def _format_warnings(
    health: pd.DataFrame, bad_rows: pd.DataFrame, column: str, template: str
) -> Iterator[str]:
    """A warning for each layer in the rows `bad`: the lowest pace, the highest of everything else."""
    epochs = health["epoch"].nunique()
    for layer, rows in bad_rows.groupby("layer", sort=False):
        worst_row = rows.sort_values(column, ascending=column == "pace").iloc[0]
        occurrence = f"epoch {worst_row['epoch']}; {len(rows)} of {epochs} epochs"
        yield f"layer {layer}: {template.format(worst_row[column])} ({occurrence})"


def _find_weighted_layers(network: nn.Module) -> dict[nn.Module, str]:
    """Modules that own a parameter of two or more dimensions themselves, with their names."""
    return {
        module: name or type(module).__name__
        for name, module in network.named_modules()
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    }


@contextmanager
def _temporary_eval_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; mode of every module and all random states as before afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    devices = {parameter.device for parameter in network.parameters()} - {torch.device("cpu")}
    device_type = next(iter(devices)).type if devices else "cuda"
    indices = [device.index or 0 for device in devices]
    with torch.random.fork_rng(indices, device_type=device_type):
        network.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


class _LayerProbe(TorchFunctionMode):
    """Keeps what each layer gives and which units survive the ReLU behind it.

    As a function mode it meets every ReLU, as a module or as a plain call, in the order they run; the
    first one after a layer is that layer's.
    """

    def __init__(self, layers: dict[nn.Module, str]) -> None:
        super().__init__()
        self.layers = layers
        self.outputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
        self.active: dict[nn.Module, Tensor] = {}  # bool (units,): not zero for some image
        self._pending_layer: nn.Module | None = None  # the layer that still waits for its ReLU

    def __enter__(self) -> "_LayerProbe":
        self._hooks = [layer.register_forward_hook(self._record_output) for layer in self.layers]
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's own gap
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def _record_output(self, layer: nn.Module, _: Any, output: Any) -> Any:
        self._pending_layer = layer
        if not (isinstance(output, Tensor) and output.requires_grad):
            return output
        self.outputs[layer].append(output)
        return output.clone()  # a ReLU in place then overwrites the copy, and δ stays that of Z

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _RELUS and self._pending_layer is not None:
            self._record_activation(self._pending_layer, result.detach())
            self._pending_layer = None
        return result

    def _record_activation(self, layer: nn.Module, activation: Tensor) -> None:
        is_convolution = isinstance(layer, nn.modules.conv._ConvNd) and activation.dim() > 1
        units = activation.movedim(1 if is_convolution else -1, 0)
        active = (units.reshape(len(units), -1) != 0).any(dim=1)
        self.active[layer] = self.active.get(layer, active) | active


def _measure_layers(probe: _LayerProbe, loss: Tensor) -> Iterator[dict[str, str | float]]:
    weights = {layer: list(layer.parameters(recurse=False)) for layer in probe.layers}
    sources = [output for outputs in probe.outputs.values() for output in outputs]
    sources += [
        weight for layer_weights in weights.values() for weight in layer_weights if weight.requires_grad
    ]
    gradients = torch.autograd.grad(loss, sources, allow_unused=True)
    by_source = dict(zip(map(id, sources), gradients, strict=True))

    def slope(tensors: list[Any]) -> float:
        return _norm([by_source.get(id(tensor)) for tensor in tensors])

    for layer, name in probe.layers.items():
        matrices = [weight for weight in weights[layer] if weight.dim() > 1]
        weight, gradient = _norm(matrices), slope(matrices)
        active = probe.active.get(layer)
        yield {
            "layer": name,
            "delta": slope(probe.outputs[layer]),
            "weight": weight,
            "weight_gradient": gradient,
            "bias_gradient": slope([bias for bias in weights[layer] if bias.dim() <= 1]),
            "relative": gradient / weight if weight > 0 else math.nan,
            "dead": math.nan if active is None else 1 - active.float().mean().item(),
        }


def _norm(tensors: list[Any]) -> float:
    """L2 norm of all of them together: NaN where there is none, infinite where one is not a number."""
    norms = [tensor.detach().float().norm() for tensor in tensors if tensor is not None]
    if not norms:
        return math.nan
    norm = torch.stack(norms).norm().item()
    return norm if math.isfinite(norm) else math.inf
