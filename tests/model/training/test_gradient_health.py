"""Gradient health: correct norms, an unchanged network, and warnings for real problems only."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.backprop import deltas
from relearn.model.config import TrainConfig
from relearn.model.networks.registry import build_network
from relearn.model.training.gradient_health import diagnose_gradients, measure_gradients


def make_batch(shape: tuple[int, ...] = (1, 12, 12), rows: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(rows, *shape, generator=generator)
    return images, F.one_hot(torch.arange(rows) % 10, 10).float()


def make_network(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network(
        TrainConfig.parse({"network": name, "hidden_sizes": (32, 16), "dropout": 0, **settings}),
        (1, 12, 12),
        10,
    )


def make_batch_for(name: str) -> tuple[Tensor, Tensor]:
    images, targets = make_batch()
    return (images.flatten(1) if name == "mlp" else images), targets


class PlainCalls(nn.Module):
    """Custom network with ReLU as function calls, one of them in-place, and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(144, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        x = torch.relu(self.shared(x))
        return self.last(self.shared(x).relu())


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_norms_equal_the_formulas(name: str) -> None:
    """The norms of δ and gradients equal those of the backpropagation formulas for the dense layers."""
    network = make_network(name)
    inputs, targets = make_batch_for(name)
    health = measure_gradients(network, inputs, targets, epoch=3)

    layers = deltas.dense_layers(network)
    forward_pass = deltas.forward(layers, deltas.capture_dense_inputs(network, inputs))
    expected = deltas.gradients(layers, forward_pass, targets)
    dense = health.tail(len(layers))
    delta_norms = [delta.norm().item() for delta in deltas.deltas(layers, forward_pass, targets)]
    assert delta_norms == pytest.approx(dense["delta"].tolist(), rel=1e-5)
    assert [gradient.weight.norm().item() for gradient in expected] == pytest.approx(
        dense["weight_gradient"].tolist(), rel=1e-5
    )
    assert [
        gradient.bias.norm().item() for gradient in expected if gradient.bias is not None
    ] == pytest.approx(dense["bias_gradient"].tolist(), rel=1e-5)
    assert {3} == set(health["epoch"])


def test_layers_are_in_the_order_of_the_network() -> None:
    """There is one row for each layer with weights, under its name in the network."""
    names = {
        name: measure_gradients(make_network(name), *make_batch_for(name))["layer"].tolist()
        for name in ("mlp", "cnn")
    }
    assert names == {"mlp": ["hidden1", "hidden2", "output"], "cnn": ["convolution", "dense", "output"]}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_network_stays_unchanged(name: str, training: bool) -> None:
    """Weights, buffers, `.grad`, random state, mode and hooks of every module stay the same."""
    network = make_network(name, dropout=0.5, batch_norm=True).train(training)
    inputs, targets = make_batch_for(name)
    F.cross_entropy(network(inputs), targets).backward()
    next(network.children()).training = not training  # its mode differs from the other modules
    state = copy.deepcopy(network.state_dict())
    gradients_before = [
        parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None
    ]
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()

    health = measure_gradients(network, inputs, targets)

    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    gradients_after = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert all(torch.equal(*pair) for pair in zip(gradients_before, gradients_after, strict=True))
    assert modes == [module.training for module in network.modules()]
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in network.modules())
    assert not inputs.requires_grad
    pd.testing.assert_frame_equal(health, measure_gradients(network, inputs, targets))


def test_failed_forward_pass_leaves_the_network_unchanged() -> None:
    """The mode is restored and the hooks are removed."""
    network = make_network("mlp")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure_gradients(network, torch.rand(2, 7), torch.zeros(2, 10))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


def test_measuring_does_not_change_the_training() -> None:
    """A training with a measurement in every step ends with the same weights as one without."""
    inputs, targets = make_batch_for("mlp")
    final_weights = []
    for is_measured in (False, True):
        network = make_network("mlp", dropout=0.5)
        torch.manual_seed(4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), targets).backward()
            if is_measured:
                measure_gradients(network, inputs, targets)
            optimizer.step()
        final_weights.append(torch.cat([parameter.flatten() for parameter in network.parameters()]))
    assert torch.equal(*final_weights)


def test_dead_units_are_counted() -> None:
    """If 8 of 32 units are below zero for every image, the fraction is exactly 0.25."""
    network = make_network("mlp")
    with torch.no_grad():
        network.get_submodule("hidden1").bias.fill_(50.0)
        network.get_submodule("hidden1").bias[:8] = -50.0
    health = measure_gradients(network, *make_batch_for("mlp")).set_index("layer")
    assert 0.25 == health["dead_fraction"]["hidden1"]
    assert math.isnan(health["dead_fraction"]["output"])


def test_dead_filters_are_counted() -> None:
    """In a convolution a unit is a filter; it is dead if it is zero at all positions of every image."""
    network = make_network("cnn")
    with torch.no_grad():
        network.get_submodule("convolution").bias.fill_(50.0)
        network.get_submodule("convolution").bias[:4] = -50.0
    health = measure_gradients(network, *make_batch_for("cnn")).set_index("layer")
    assert health["dead_fraction"]["convolution"] == pytest.approx(4 / 32)


def test_custom_network_is_measured() -> None:
    """Every layer has a row with values, also with function calls, in-place ReLU and a layer called twice."""
    torch.manual_seed(0)
    network = PlainCalls()
    inputs, targets = make_batch_for("mlp")
    health = measure_gradients(network, inputs, targets).set_index("layer")
    assert ["first", "shared", "last"] == health.index.tolist()
    assert np.isfinite(health.drop(columns="dead_fraction").to_numpy()).all()
    assert [False, False, True] == health["dead_fraction"].isna().tolist()

    first = inputs @ network.first.weight.T + network.first.bias  # δ is ∂L/∂Z, not ∂L/∂relu(Z)
    z = first.detach().requires_grad_()
    hidden = torch.relu(network.shared(torch.relu(z)))
    loss = F.cross_entropy(network.last(torch.relu(network.shared(hidden))), targets)
    expected = torch.autograd.grad(loss, z)[0].norm().item()
    assert health["delta"]["first"] == pytest.approx(expected, rel=1e-5)


def test_unmeasurable_values_are_nan() -> None:
    """This concerns layers without tensor output, unused layers and frozen layers."""

    class UnusualLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.unused = nn.LSTM(12, 8, batch_first=True), nn.Linear(3, 3)
            self.frozen, self.last = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.frozen(self.memory(x.flatten(1, 2))[0][:, -1])))

    health = measure_gradients(UnusualLayers(), *make_batch()).set_index("layer")
    assert math.isnan(health["delta"]["memory"])
    assert health["weight_gradient"]["memory"] > 0
    assert math.isnan(health["weight_gradient"]["unused"])
    assert health["delta"]["frozen"] > 0
    assert math.isnan(health["weight_gradient"]["frozen"])
    assert diagnose_gradients(health.reset_index()).is_healthy


def make_deep_network(activation: type[nn.Module], depth: int, gain: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for inputs in [144] + [64] * (depth - 1):
        modules += [nn.Linear(inputs, 64), activation()]
    network = nn.Sequential(*modules, nn.Linear(64, 10))
    for module in network:
        if isinstance(module, nn.Linear) and gain != 1.0:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= gain
    return network


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_builtin_networks_are_healthy(name: str) -> None:
    """There is no warning for mlp and cnn, before the training and after some steps."""
    network = make_network(name)
    inputs, targets = make_batch_for(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    tables = []
    for epoch in range(4):
        tables.append(measure_gradients(network, inputs, targets, epoch))
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
    assert str(diagnose_gradients(pd.concat(tables))) == "gradients: healthy"


def test_vanishing_gradients_are_reported() -> None:
    """In a network of seven sigmoid layers the first ones have a warning, and the last one has none."""
    health = measure_gradients(make_deep_network(nn.Sigmoid, 7), *make_batch_for("mlp"), epoch=2)
    warnings = diagnose_gradients(health).warnings
    assert warnings[0].startswith("layer 0: vanishing, its relative gradient is ")
    assert warnings[0].endswith(" of the largest one (epoch 2; 1 of 1 epochs)")
    assert not any(warning.startswith("layer 14:") for warning in warnings)
    assert all("vanishing" in warning for warning in warnings)


def test_exploding_gradients_are_reported() -> None:
    """Initial weights three times too large give gradients larger than the weights."""
    warnings = diagnose_gradients(
        measure_gradients(make_deep_network(nn.ReLU, 6, gain=3), *make_batch_for("mlp"))
    ).warnings
    assert warnings
    assert all("exploding" in warning for warning in warnings)


def test_nan_weight_is_reported_as_exploding() -> None:
    """A NaN weight gives this warning and no other one."""
    network = make_network("mlp")
    with torch.no_grad():
        network.get_submodule("hidden2").weight[0, 0] = math.nan
    health = measure_gradients(network, *make_batch_for("mlp"))
    assert math.isinf(health.set_index("layer")["weight"]["hidden2"])
    assert all("exploding" in warning for warning in diagnose_gradients(health).warnings)
    assert not diagnose_gradients(health).is_healthy


def test_dead_layer_is_reported_with_its_worst_epoch() -> None:
    """The warning has the highest fraction, its epoch and the number of affected epochs."""
    network, tables = make_network("mlp"), []
    for epoch, dead in enumerate([0, 24, 20], start=1):
        with torch.no_grad():
            network.get_submodule("hidden1").bias.fill_(1.0)
            network.get_submodule("hidden1").bias[:dead] = -50.0
            network.get_submodule("hidden2").bias.fill_(3.0)
        tables.append(measure_gradients(network, *make_batch_for("mlp"), epoch))
    report = diagnose_gradients(pd.concat(tables, ignore_index=True))
    assert ("layer hidden1: 75% of its ReLU units are dead (epoch 2; 2 of 3 epochs)",) == report.warnings


def test_zero_gradient_is_reported_as_vanishing() -> None:
    """If every ReLU of a layer is dead, the layers before it have gradients of zero."""
    network = make_network("mlp")
    with torch.no_grad():
        network.get_submodule("hidden2").bias.fill_(-50.0)
    warnings = diagnose_gradients(measure_gradients(network, *make_batch_for("mlp"))).warnings
    assert any(warning.startswith("layer hidden1: vanishing") for warning in warnings)
    assert any(warning.startswith("layer hidden2: 100% of its ReLU units are dead") for warning in warnings)


def test_gradients_are_measured_inside_no_grad() -> None:
    """`torch.no_grad()`, active during validation, does not disable the measurement."""
    with torch.no_grad():
        health = measure_gradients(make_network("mlp"), *make_batch_for("mlp"))
    assert (health["weight_gradient"] > 0).all()
