"""Tests of the backpropagation formulas against autograd, torch's optimizer and finite differences."""

import copy
import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.backprop import deltas
from relearn.model.backprop.deltas import DenseLayer
from relearn.model.config import TrainConfig
from relearn.model.errors import UserInputError
from relearn.model.networks.registry import build_network

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SIZES = [(2, 3, 3, 1), (4, 5, 3), (2, 2, 1), (7, 2), (6, 1), (20, 16, 12, 8, 10)]


def chain(sizes: Sequence[int], dtype: torch.dtype, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        modules += [nn.Linear(inputs, outputs, bias=bias, dtype=dtype), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def batch(sizes: Sequence[int], dtype: torch.dtype, rows: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.rand(rows, sizes[0], generator=generator, dtype=dtype)
    if sizes[-1] == 1:
        return inputs, torch.randint(2, (rows, 1), generator=generator).to(dtype)
    return inputs, F.one_hot(torch.randint(sizes[-1], (rows,), generator=generator), sizes[-1]).to(dtype)


def torch_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the loss with torch's functions, independent of the tested ones."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets.argmax(1))


def assert_close(expected: Tensor, actual: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual, expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_loss_deltas_and_gradients_equal_autograd(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    """The formulas give the values of autograd, for every shape and both dtypes."""
    network = chain(sizes, dtype)
    inputs, targets = batch(sizes, dtype)
    pre_activations: list[Tensor] = []
    for module in network:
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, __, output: pre_activations.append(output))
    expected_loss = torch_loss(network(inputs), targets)
    expected_deltas = torch.autograd.grad(expected_loss, pre_activations, retain_graph=True)
    expected_loss.backward()

    layers = deltas.dense_layers(network)
    forward_pass = deltas.forward(layers, inputs)

    assert_close(expected_loss, deltas.loss(forward_pass.pre_activations[-1], targets))
    for expected, delta in zip(expected_deltas, deltas.deltas(layers, forward_pass, targets), strict=True):
        assert_close(expected, delta)
    linears = [module for module in network if isinstance(module, nn.Linear)]
    for linear, gradient in zip(linears, deltas.gradients(layers, forward_pass, targets), strict=True):
        assert_close(linear.weight.grad, gradient.weight)
        assert_close(linear.bias.grad, gradient.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
@pytest.mark.parametrize("sizes", SIZES)
def test_steps_equal_the_optimizer(sizes: tuple[int, ...], momentum: float, dtype: torch.dtype) -> None:
    """Eight steps of `sgd_step` give the weights of torch.optim.SGD."""
    network = chain(sizes, dtype)
    layers, velocity = deltas.dense_layers(network), None
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum)
    inputs, targets = batch(sizes, dtype)
    for _ in range(8):
        optimizer.zero_grad()
        torch_loss(network(inputs), targets).backward()
        optimizer.step()
        gradients = deltas.gradients(layers, deltas.forward(layers, inputs), targets)
        layers, velocity = deltas.sgd_step(layers, gradients, velocity, 0.1, momentum)
    for expected, layer in zip(deltas.dense_layers(network), layers, strict=True):
        assert_close(expected.weight, layer.weight)
        assert_close(expected.bias, layer.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_formulas_hold_for_the_built_in_networks(name: str, dtype: torch.dtype) -> None:
    """Gradients and steps of the mlp, and of the dense part of the cnn, equal those of torch."""
    torch.manual_seed(0)
    config = TrainConfig(network=name, hidden_sizes=(32, 16), dropout=0.3)
    network = build_network(config, (1, 12, 12), 10).to(dtype).eval()
    images = torch.rand(8, 144, dtype=dtype) if name == "mlp" else torch.rand(8, 1, 12, 12, dtype=dtype)
    targets = F.one_hot(torch.arange(8), 10).to(dtype)
    layers = deltas.dense_layers(network)
    features = deltas.capture_dense_inputs(network, images)
    gradients = deltas.gradients(layers, deltas.forward(layers, features), targets)
    updated, _ = deltas.sgd_step(layers, gradients, None, 0.05, 0.9)

    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    torch_loss(network(images), targets).backward()
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    expected = [(linear.weight.grad.clone(), linear.bias.grad.clone()) for linear in linears]
    optimizer.step()

    assert (3 if name == "mlp" else 2) == len(layers)
    for (weight, bias), gradient in zip(expected, gradients, strict=True):
        assert_close(weight, gradient.weight)
        assert_close(bias, gradient.bias)
    for linear, layer in zip(linears, updated, strict=True):
        assert_close(linear.weight, layer.weight)
        assert_close(linear.bias, layer.bias)


@pytest.mark.parametrize("sizes", [(2, 3, 3, 1), (4, 5, 3)])
def test_gradients_equal_finite_differences(sizes: tuple[int, ...]) -> None:
    """Changing a weight by ±1e-6 changes the loss as the gradient predicts."""
    inputs, targets = batch(sizes, torch.float64)
    layers = deltas.dense_layers(chain(sizes, torch.float64))
    gradients = deltas.gradients(layers, deltas.forward(layers, inputs), targets)

    def loss_with(index: int, position: tuple[int, int], change: float) -> float:
        changed = copy.deepcopy(layers)
        changed[index].weight[position] += change
        return deltas.loss(deltas.forward(changed, inputs).pre_activations[-1], targets).item()

    for index, gradient in enumerate(gradients):
        for row in range(gradient.weight.shape[0]):
            for column in range(gradient.weight.shape[1]):
                position = (row, column)
                difference = (loss_with(index, position, 1e-6) - loss_with(index, position, -1e-6)) / 2e-6
                assert difference == pytest.approx(gradient.weight[position].item(), abs=1e-8)


def test_shapes_equal_those_of_torch() -> None:
    """δ_k is (N, out_k), dW_k is (out_k, in_k), db_k is (out_k,)."""
    layers = deltas.dense_layers(chain((4, 5, 3), torch.float32))
    inputs, targets = batch((4, 5, 3), torch.float32, rows=7)
    forward_pass = deltas.forward(layers, inputs)
    gradients = deltas.gradients(layers, forward_pass, targets)
    assert [(7, 5), (7, 3)] == [tuple(d.shape) for d in deltas.deltas(layers, forward_pass, targets)]
    assert [(5, 4), (3, 5)] == [tuple(gradient.weight.shape) for gradient in gradients]
    assert [(5,), (3,)] == [tuple(gradient.bias.shape) for gradient in gradients if gradient.bias is not None]


def test_delta_of_a_single_output_is_its_error() -> None:
    """With one row and one sigmoid unit, δ of the output is O − Y."""
    layers = [DenseLayer(torch.tensor([[0.5, -1.0]]), torch.tensor([0.25]))]
    forward_pass = deltas.forward(layers, torch.tensor([[1.0, 0.75]]))  # z = 0.5 − 0.75 + 0.25 = 0
    assert 0.5 == forward_pass.output.item()
    assert -0.5 == deltas.deltas(layers, forward_pass, torch.tensor([[1.0]]))[0].item()


def test_the_derivative_of_relu_at_zero_is_zero() -> None:
    """A pre-activation of exactly zero passes no gradient, as in torch."""
    assert [0.0, 0.0, 1.0] == deltas.relu_grad(torch.tensor([-1.0, 0.0, 1e-9])).tolist()


def test_layers_without_bias_get_none() -> None:
    """Layers without bias stay without, and their weights equal those of the optimizer."""
    network = chain((3, 4, 2), torch.float64, bias=False)
    layers, velocity = deltas.dense_layers(network), None
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    inputs, targets = batch((3, 4, 2), torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        torch_loss(network(inputs), targets).backward()
        optimizer.step()
        gradients = deltas.gradients(layers, deltas.forward(layers, inputs), targets)
        layers, velocity = deltas.sgd_step(layers, gradients, velocity, 0.1, 0.9)
    assert [None, None] == [layer.bias for layer in layers]
    assert_close(network[0].weight, layers[0].weight)


def test_dense_layers_are_copies() -> None:
    """Changing the returned layers does not change the network."""
    network = chain((4, 5, 3), torch.float32)
    before = copy.deepcopy(network.state_dict())
    layers = deltas.dense_layers(network)
    layers[0].weight.zero_()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), "got Tanh at position 2"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "got Linear at position 2"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "got ReLU at position 2"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU()), "got BatchNorm1d at position 2"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), "network: got no Linear layer"),
    ],
)
def test_unsupported_chains_are_rejected(network: nn.Module, message: str) -> None:
    """A chain for which the formulas do not hold raises an error instead of giving wrong gradients."""
    with pytest.raises(UserInputError, match=message):
        deltas.dense_layers(network)
