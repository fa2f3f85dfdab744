"""Parameter count and layer table of a network."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relearn.model.data.transforms import expects_flat_input, to_unit_float

if TYPE_CHECKING:
    import pandas as pd


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def summarize_layers(network: nn.Module, shape: tuple[int, int, int]) -> "pd.DataFrame":
    """Return a table with one row per layer: name, kind, output shape, activation, parameters.

    An activation is in the row of the layer before it. The last row has the softmax, which the classifier
    applies to the logits.
    """
    import pandas as pd  # not loaded by a server

    rows: list[list[Any]] = []

    def record_layer(name: str, layer: nn.Module, output: Tensor) -> None:
        kind = type(layer).__name__
        if type(layer).__module__ == "torch.nn.modules.activation" and rows:
            rows[-1][3] = kind
        else:
            rows.append([name, kind, tuple(output.shape[1:]), "", count_parameters(layer)])

    hooks = [
        leaf.register_forward_hook(
            lambda layer, _, output, name=name: record_layer(name or "network", layer, output)
        )
        for name, leaf in network.named_modules()
        if not any(leaf.children())
    ]
    was_training, device = network.training, next(network.parameters()).device
    image = torch.zeros(1, *shape, dtype=torch.uint8, device=device)
    try:
        network.eval()
        with torch.no_grad():
            network(to_unit_float(image, expects_flat_input(network)))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if rows:
        rows[-1][3] = "Softmax"
    return pd.DataFrame(rows, columns=["name", "kind", "output shape", "activation", "parameters"])
