"""Backpropagation written out: forward pass, loss, deltas, gradients and one step of SGD.

A chain of K dense layers, N rows in the batch, weights in torch's layout (out, in):

    Z_k = A_{k-1} W_kᵀ + b_k           (N, out_k)     A_0 = X, the inputs, (N, in_1)
    A_k = relu(Z_k) for k < K          (N, out_k)     O = A_K = softmax(Z_K), or sigmoid for one output
    L   = −Σ Y log O / N               scalar         Y, the targets, (N, out_K), rows one-hot
    δ_K = (O − Y) / N                  (N, out_K)     δ_k is ∂L/∂Z_k
    δ_k = (δ_{k+1} W_{k+1}) ⊙ relu′(Z_k)              (N, out_k)
    dW_k = δ_kᵀ A_{k-1}                (out_k, in_k)  ∂L/∂W_k
    db_k = Σ over rows of δ_k          (out_k,)       ∂L/∂b_k

With weights in the layout (in, out), δ_{k+1} is multiplied by W_{k+1}ᵀ; torch's layout needs no transpose.
Tensors keep the dtype of the layers: float32 or float64.

Derivation: I. Goodfellow, Y. Bengio, A. Courville, Deep Learning, section 6.5.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.errors import UserInputError


@dataclass(frozen=True)
class DenseLayer:
    """Weight (out, in) and bias (out,), or None without bias; also used for gradients and for velocity."""

    weight: Tensor
    bias: Tensor | None

    def add(self, other: "DenseLayer", factor: float) -> "DenseLayer":
        """Return self + factor · other."""
        bias = None if self.bias is None or other.bias is None else self.bias + factor * other.bias
        return DenseLayer(self.weight + factor * other.weight, bias)


@dataclass(frozen=True)
class ForwardPass:
    """The values that the backward pass needs.

    `pre_activations[k]` is Z of layer k + 1, (N, out_k). `activations[0]` is X, `activations[k + 1]` is A of
    layer k + 1; the last is the output O.
    """

    pre_activations: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]

    @property
    def output(self) -> Tensor:
        """O: probabilities, (N, out_K)."""
        return self.activations[-1]


def dense_layers(network: nn.Module) -> list[DenseLayer]:
    """Copy the dense layers of `network`, in order: a chain of Linear with ReLU between them.

    Modules before the first Linear (the convolutions of a cnn) are skipped. Dropout is ignored, as in
    evaluation mode. Raises `UserInputError` for any other chain: the formulas of this module would not hold.
    """
    leaves = [leaf for leaf in network.modules() if not any(leaf.children())]
    leaves = [leaf for leaf in leaves if not isinstance(leaf, nn.Dropout | nn.Identity)]
    chain = leaves[leaves.index(_first_linear(network)) :]
    layers = []
    for position, leaf in enumerate(chain):
        if position % 2 == 0 and isinstance(leaf, nn.Linear):
            bias = None if leaf.bias is None else leaf.bias.detach().clone()
            layers.append(DenseLayer(leaf.weight.detach().clone(), bias))
        elif position % 2 == 0 or leaf is chain[-1] or not isinstance(leaf, nn.ReLU):
            raise UserInputError(
                f"dense part of the network: got {type(leaf).__name__} at position {position + 1}, "
                "accepted: Linear layers with ReLU between them, Linear last"
            )
    return layers


def _first_linear(network: nn.Module) -> nn.Linear:
    for leaf in network.modules():
        if isinstance(leaf, nn.Linear):
            return leaf
    raise UserInputError("network: got no Linear layer, accepted: at least one")


def capture_dense_inputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the input (N, in_1) of the first Linear of `network` for a batch of `inputs`.

    For an mlp these are the inputs themselves, for a cnn its flattened features. The network runs in its
    current mode; call `network.eval()` first where it has dropout.
    """
    captured: list[Tensor] = []
    hook = _first_linear(network).register_forward_pre_hook(lambda _, args: captured.append(args[0].detach()))
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        hook.remove()
    return captured[0]


def forward(layers: Sequence[DenseLayer], inputs: Tensor) -> ForwardPass:
    """Send `inputs` (N, in_1) through the chain."""
    pre_activations: list[Tensor] = []
    activations = [inputs]
    for layer in layers:
        z = F.linear(activations[-1], layer.weight, layer.bias)
        pre_activations.append(z)
        activations.append(output(z) if layer is layers[-1] else z.clamp(min=0))
    return ForwardPass(tuple(pre_activations), tuple(activations))


def output(z: Tensor) -> Tensor:
    """Turn the last pre-activations (N, out) into probabilities: softmax, or sigmoid where out is 1.

    Sigmoid with binary cross-entropy equals softmax of (z, 0) with cross-entropy, so δ = (O − Y)/N holds for
    one output too. A squared error would add a factor σ′(z) ≤ 1/4, which is near 0 for a confident wrong
    output.
    """
    return z.sigmoid() if z.shape[1] == 1 else z.softmax(dim=1)


def loss(z: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of the last pre-activations `z` (N, out) against Y (N, out)."""
    if z.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(z, targets)
    return -(targets * z.log_softmax(dim=1)).sum(dim=1).mean()


def relu_grad(z: Tensor) -> Tensor:
    """relu′(Z): 1 where z > 0, else 0; 0 at z = 0, as in torch."""
    return (z > 0).to(z.dtype)


def deltas(layers: Sequence[DenseLayer], forward_pass: ForwardPass, targets: Tensor) -> list[Tensor]:
    """Return δ_1 … δ_K, each (N, out_k), computed from the output back to the first layer."""
    delta = (forward_pass.output - targets) / len(targets)
    reverse = [delta]
    for next_layer, z in zip(reversed(layers[1:]), reversed(forward_pass.pre_activations[:-1]), strict=True):
        delta = (delta @ next_layer.weight) * relu_grad(z)
        reverse.append(delta)
    return reverse[::-1]


def gradients(layers: Sequence[DenseLayer], forward_pass: ForwardPass, targets: Tensor) -> list[DenseLayer]:
    """Return ∂L/∂W and ∂L/∂b of each layer, in the shapes of the layer."""
    inputs = forward_pass.activations[:-1]
    return [
        DenseLayer(delta.T @ activation, None if layer.bias is None else delta.sum(dim=0))
        for layer, delta, activation in zip(
            layers, deltas(layers, forward_pass, targets), inputs, strict=True
        )
    ]


def sgd_step(
    layers: Sequence[DenseLayer],
    gradients: Sequence[DenseLayer],
    velocity: Sequence[DenseLayer] | None,
    learning_rate: float,
    momentum: float = 0.0,
) -> tuple[list[DenseLayer], list[DenseLayer]]:
    """Update once: v ← momentum · v + gradient, W ← W − learning_rate · v. Return new layers and velocity.

    Pass None as the first `velocity`; v is then the gradient. As in torch.optim.SGD the learning rate is
    not part of v: a changed learning rate has its full effect at once.
    """
    if velocity is not None:
        gradients = [gradient.add(v, momentum) for gradient, v in zip(gradients, velocity, strict=True)]
    updated = [layer.add(v, -learning_rate) for layer, v in zip(layers, gradients, strict=True)]
    return updated, list(gradients)
