"""Backpropagation written out: forward pass, error, deltas, gradients and one step of SGD.

A chain of K dense layers, N rows in the batch, weights in torch's layout (out, in):

    Z_k = A_{k-1} W_kᵀ + b_k           (N, out_k)     A_0 = X, the inputs, (N, in_1)
    A_k = relu(Z_k) for k < K          (N, out_k)     O = A_K = softmax(Z_K), or sigmoid for one output
    L   = −Σ Y log O / N               scalar         Y, the targets, (N, out_K), rows one-hot
    δ_K = (O − Y) / N                  (N, out_K)     δ_k is ∂L/∂Z_k
    δ_k = (δ_{k+1} W_{k+1}) ⊙ relu′(Z_k)              (N, out_k)
    dW_k = δ_kᵀ A_{k-1}                (out_k, in_k)  ∂L/∂W_k
    db_k = Σ over rows of δ_k          (out_k,)       ∂L/∂b_k

Where weights are written (in, out), δ_{k+1} meets their transpose; in torch's layout it meets them as
they are. Tensors stay in the type of the layers: float32 or float64.

Derivation: I. Goodfellow, Y. Bengio, A. Courville, Deep Learning, section 6.5.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.errors import InputError


@dataclass(frozen=True)
class Layer:
    """Weight (out, in) and bias (out,), None for a layer without; also the gradients and velocity of one."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Forward:
    """What a forward pass leaves behind for the backward one.

    `z[k]` is (N, out_k), the weighted sums of layer k + 1; `activations[0]` is X and `activations[k + 1]`
    is what layer k + 1 hands on, the output O last.
    """

    z: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]

    @property
    def output(self) -> Tensor:
        """O: probabilities, (N, out_K)."""
        return self.activations[-1]


def dense_layers(network: nn.Module) -> list[Layer]:
    """Copies of the dense layers of `network`, in order: a chain of Linear with ReLU between them.

    What comes before the first Linear is left out (the convolutions of a cnn); dropout is read as it is
    in evaluation, absent. `InputError` where the formulas of this module would not hold.
    """
    leaves = [leaf for leaf in network.modules() if not any(leaf.children())]
    leaves = [leaf for leaf in leaves if not isinstance(leaf, nn.Dropout | nn.Identity)]
    first = _first_linear(network)
    chain = leaves[leaves.index(first) :]
    for place, leaf in enumerate(chain):
        expected: type[nn.Module] = nn.ReLU if place % 2 else nn.Linear
        if not isinstance(leaf, expected) or (leaf is chain[-1] and expected is nn.ReLU):
            raise InputError(
                f"dense part of the network: got {type(leaf).__name__} at place {place + 1}, "
                "accepted: Linear layers with ReLU between them, Linear last"
            )
    return [_copy(leaf) for leaf in chain if isinstance(leaf, nn.Linear)]


def _copy(linear: nn.Linear) -> Layer:
    bias = None if linear.bias is None else linear.bias.detach().clone()
    return Layer(linear.weight.detach().clone(), bias)


def _first_linear(network: nn.Module) -> nn.Linear:
    for leaf in network.modules():
        if isinstance(leaf, nn.Linear):
            return leaf
    raise InputError("network: no Linear layer found, the formulas need at least one")


def dense_inputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """What the first Linear of `network` is given for `inputs`: (N, in_1).

    For an mlp the inputs themselves, for a cnn its pooled features, flattened. The network runs in the
    mode it is in; the formulas are about evaluation mode, where dropout is absent.
    """
    seen: list[Tensor] = []
    hook = _first_linear(network).register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.no_grad():
            network(inputs)
    finally:
        hook.remove()
    return seen[0]


def forward(layers: Sequence[Layer], inputs: Tensor) -> Forward:
    """Send `inputs` (N, in_1) through the chain."""
    z: list[Tensor] = []
    activations = [inputs]
    for layer in layers:
        z.append(F.linear(activations[-1], layer.weight, layer.bias))
        activations.append(output(z[-1]) if layer is layers[-1] else z[-1].clamp(min=0))
    return Forward(tuple(z), tuple(activations))


def output(z: Tensor) -> Tensor:
    """Probabilities from the last sums (N, out): softmax over the row, sigmoid where out is 1.

    One unit answers yes or no. The sigmoid with binary cross-entropy is the softmax of (z, 0) with
    cross-entropy, so δ = (O − Y)/N holds for one output as for many. A squared error would bring a
    factor σ′(z) ≤ 1/4 into it and hardly learn from an answer that is surely wrong.
    """
    return z.sigmoid() if z.shape[1] == 1 else z.softmax(dim=1)


def loss(z: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the N rows, in nats, from the last sums `z` (N, out) and Y (N, out)."""
    if z.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(z, targets)
    return -(targets * z.log_softmax(dim=1)).sum(dim=1).mean()


def relu_slope(z: Tensor) -> Tensor:
    """relu′(Z): 1 where the sum is above zero, else 0; at zero itself 0, as torch has it."""
    return (z > 0).to(z.dtype)


def deltas(layers: Sequence[Layer], passed: Forward, targets: Tensor) -> list[Tensor]:
    """δ_1 … δ_K, each (N, out_k): from the error of the output back to the first layer."""
    delta = (passed.output - targets) / len(targets)
    found = [delta]
    for following, z in zip(reversed(layers[1:]), reversed(passed.z[:-1]), strict=True):
        delta = (delta @ following.weight) * relu_slope(z)
        found.append(delta)
    return found[::-1]


def gradients(layers: Sequence[Layer], passed: Forward, targets: Tensor) -> list[Layer]:
    """∂L/∂W and ∂L/∂b of each layer, in the shapes of the layer."""
    return [
        Layer(delta.T @ entering, None if layer.bias is None else delta.sum(dim=0))
        for layer, delta, entering in zip(
            layers, deltas(layers, passed, targets), passed.activations[:-1], strict=True
        )
    ]


def step(
    layers: Sequence[Layer],
    slopes: Sequence[Layer],
    velocity: Sequence[Layer] | None,
    learning_rate: float,
    momentum: float = 0.0,
) -> tuple[list[Layer], list[Layer]]:
    """One update, v ← momentum · v + gradient and W ← W − learning_rate · v: new layers and velocity.

    `slopes` are the gradients. The first `velocity` is None, and v is the gradient itself then. The
    learning rate stands outside v, as in torch.optim.SGD: a change of it takes effect at once.
    """
    moved = list(slopes)
    if velocity is not None:
        moved = [_blend(v, slope, momentum) for v, slope in zip(velocity, slopes, strict=True)]
    return [_descend(layer, v, learning_rate) for layer, v in zip(layers, moved, strict=True)], moved


def _blend(velocity: Layer, slope: Layer, momentum: float) -> Layer:
    bias = None if velocity.bias is None or slope.bias is None else momentum * velocity.bias + slope.bias
    return Layer(momentum * velocity.weight + slope.weight, bias)


def _descend(layer: Layer, velocity: Layer, learning_rate: float) -> Layer:
    bias = None if layer.bias is None or velocity.bias is None else layer.bias - learning_rate * velocity.bias
    return Layer(layer.weight - learning_rate * velocity.weight, bias)
