"""Gradient health of a run: measured once per epoch on one fixed batch, diagnosed at the end.

Works for any `nn.Module`: hooks capture the layer outputs, autograd computes the gradients. Weights,
`.grad`, training mode and random state of the network stay unchanged.
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

# A layer whose gradient, relative to its weights, is a thousand times smaller than that of another layer does
# not learn. Measured on MNIST at the start and after training: the mlp and the cnn 0.05 or more, three
# sigmoid layers 4e-3, five sigmoid layers 6e-5, ten ReLU layers of 64 units 6e-4; the last two networks
# learned nothing in an epoch.
VANISHING_RATIO = 1e-3

# Ratio of gradient norm to weight norm. At 10, one step with learning rate 0.1 replaces the weights.
# Measured in the same way: the mlp and the cnn 0.25 or less; six layers with initial weights three times
# too large 15 to 60.
EXPLODING_RATIO = 10.0

# A ReLU unit that is zero for every image of the batch gets no gradient and may stay zero. With half of its
# units dead a layer has half of its width. Measured in the same way: the mlp 0.01 or less, the cnn 0.3; the
# mlp with a learning rate of 2 0.99.
DEAD_FRACTION = 0.5

COLUMNS = [
    *("epoch", "layer", "delta", "weight", "weight_gradient", "bias_gradient"),
    *("gradient_to_weight_ratio", "dead_fraction"),
]

_RELUS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


@dataclass(frozen=True)
class GradientReport:
    """Diagnosis of gradient measurements; a run without warnings is healthy."""

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
    """Return a table with one row per layer with a weight matrix or filters, in the order of the network.

    `inputs` float (n, …) are inputs of the network, `targets` are targets of `loss_function`; both are
    moved to the network's device. Columns (L2 norms over the batch, NaN if not measurable, infinite after
    an overflow):

    epoch, layer        argument `epoch`; name of the layer in the network
    delta               norm of δ = ∂L/∂Z; Z is the output of the layer before its activation
    weight              norm of its weights
    weight_gradient     norm of ∂L/∂W;   bias_gradient  norm of ∂L/∂b
    gradient_to_weight_ratio   weight_gradient / weight
    dead_fraction       fraction (0 to 1) of its ReLU units that are zero for the whole batch

    The network is in evaluation mode, without dropout and with the running statistics of batch norm, so
    that only the weights differ between epochs. A layer called several times has one row for all calls.
    """
    device = next(network.parameters()).device
    inputs = inputs.detach().to(device)
    if inputs.is_floating_point():
        inputs.requires_grad_()  # gives δ even if the first layers are frozen
    with (
        _temporary_eval_mode(network),
        torch.enable_grad(),
        _LayerProbe(_find_weighted_layers(network)) as probe,
    ):
        loss = loss_function(network(inputs), targets.to(device))
    return pd.DataFrame([{"epoch": epoch} | row for row in _measure_layers(probe, loss)], columns=COLUMNS)


def diagnose(health: pd.DataFrame) -> GradientReport:
    """Compare the rows of `measure_gradients`, of one or several epochs, with the thresholds above.

    There is one warning for each layer and problem, with the number of affected epochs and the worst one.
    """
    ratio = health["gradient_to_weight_ratio"]
    max_ratio = ratio.groupby(health["epoch"]).transform("max")
    table = health.assign(ratio_to_max=(ratio / max_ratio).fillna(ratio))
    is_infinite = np.isinf(table[["delta", "weight", "weight_gradient"]].to_numpy()).any(axis=1)
    exploding_rows = table[is_infinite | (ratio > EXPLODING_RATIO)]
    # In an epoch with an exploding layer every other layer seems to vanish.
    stable_rows = table[~table["epoch"].isin(exploding_rows["epoch"])]
    vanishing_rows = stable_rows[stable_rows["ratio_to_max"] < VANISHING_RATIO]
    dead_rows = table[table["dead_fraction"] >= DEAD_FRACTION]
    exploding_text = "exploding, its gradient is {:.3g} × its weights"
    vanishing_text = "vanishing, its relative gradient is {:.2g} of the largest one"
    epochs = health["epoch"].nunique()
    warnings = (
        *_format_warnings(epochs, exploding_rows, "gradient_to_weight_ratio", exploding_text),
        *_format_warnings(epochs, vanishing_rows, "ratio_to_max", vanishing_text),
        *_format_warnings(epochs, dead_rows, "dead_fraction", "{:.0%} of its ReLU units are dead"),
    )
    return GradientReport(warnings)


def _format_warnings(epochs: int, bad_rows: pd.DataFrame, column: str, template: str) -> Iterator[str]:
    """Yield a warning for each layer in `bad_rows`, with the values of its row of lowest `ratio_to_max`."""
    for layer, rows in bad_rows.groupby("layer", sort=False):
        worst_row = rows.sort_values(column, ascending=column == "ratio_to_max").iloc[0]
        occurrence = f"epoch {worst_row['epoch']}; {len(rows)} of {epochs} epochs"
        yield f"layer {layer}: {template.format(worst_row[column])} ({occurrence})"


def _find_weighted_layers(network: nn.Module) -> dict[nn.Module, str]:
    """Map each module that itself has a parameter of two or more dimensions to its name."""
    return {
        module: name or type(module).__name__
        for name, module in network.named_modules()
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
    }


@contextmanager
def _temporary_eval_mode(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode; restore the mode of every module and all random states at the end."""
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
    """Records the output of each layer and the active units of its ReLU.

    A function mode intercepts every ReLU, module or function call, in the order of execution; the first
    ReLU after a layer belongs to it.
    """

    def __init__(self, layers: dict[nn.Module, str]) -> None:
        super().__init__()
        self.layers = layers
        self.outputs: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
        self.active: dict[nn.Module, Tensor] = {}  # bool (units,): nonzero for at least one image
        self._pending_layer: nn.Module | None = None  # last layer, if its ReLU has not run yet

    def __enter__(self) -> "_LayerProbe":
        self._hooks = [layer.register_forward_hook(self._record_output) for layer in self.layers]
        super().__enter__()  # type: ignore[no-untyped-call]  # missing in torch's types
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
        return output.clone()  # an in-place ReLU overwrites the copy, so δ is still ∂L/∂Z

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
    tensors = [output for outputs in probe.outputs.values() for output in outputs]
    tensors += [
        weight for layer_weights in weights.values() for weight in layer_weights if weight.requires_grad
    ]
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    gradient_by_id = dict(zip(map(id, tensors), gradients, strict=True))

    def gradient_norm(tensors: list[Any]) -> float:
        return _norm([gradient_by_id.get(id(tensor)) for tensor in tensors])

    for layer, name in probe.layers.items():
        matrices = [weight for weight in weights[layer] if weight.dim() > 1]
        weight, gradient = _norm(matrices), gradient_norm(matrices)
        active = probe.active.get(layer)
        yield {
            "layer": name,
            "delta": gradient_norm(probe.outputs[layer]),
            "weight": weight,
            "weight_gradient": gradient,
            "bias_gradient": gradient_norm([bias for bias in weights[layer] if bias.dim() <= 1]),
            "gradient_to_weight_ratio": gradient / weight if weight > 0 else math.nan,
            "dead_fraction": math.nan if active is None else 1 - active.float().mean().item(),
        }


def _norm(tensors: list[Any]) -> float:
    """Return the L2 norm of all tensors together: NaN for none, infinite if a value is NaN or infinite."""
    norms = [tensor.detach().float().norm() for tensor in tensors if tensor is not None]
    if not norms:
        return math.nan
    norm = torch.stack(norms).norm().item()
    return norm if math.isfinite(norm) else math.inf
