"""The health of gradients: right numbers, nothing disturbed, the right alarm and no other."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.backprop import deltas as backprop
from relearn.model.config import TrainConfig
from relearn.model.networks.registry import build_network
from relearn.model.training import gradient_health


def batch(shape: tuple[int, ...] = (1, 12, 12), rows: int = 16) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(rows, *shape, generator=draw)
    return images, F.one_hot(torch.arange(rows) % 10, 10).float()


def network(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build_network(
        TrainConfig.parse({"network": name, "hidden_sizes": (32, 16), **settings}), (1, 12, 12), 10
    )


def inputs_of(name: str) -> tuple[Tensor, Tensor]:
    images, targets = batch()
    return (images.flatten(1) if name == "mlp" else images), targets


class PlainCalls(nn.Module):
    """A user's own network: ReLU as plain calls, one of them in place, and a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(144, 20), nn.Linear(20, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x), inplace=True)
        x = torch.relu(self.shared(x))
        return self.last(self.shared(x).relu())


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_norms_are_those_of_the_formulas(name: str) -> None:
    """Hooks see the same δ and gradients that the formulas by hand give for the dense layers."""
    built = network(name)
    inputs, targets = inputs_of(name)
    health = gradient_health.measure_gradients(built, inputs, targets, epoch=3)

    layers = backprop.dense_layers(built)
    forward_pass = backprop.forward(layers, backprop.capture_dense_inputs(built, inputs))
    by_hand = backprop.gradients(layers, forward_pass, targets)
    dense = health.tail(len(layers))
    deltas = [delta.norm().item() for delta in backprop.deltas(layers, forward_pass, targets)]
    assert deltas == pytest.approx(dense["delta"].tolist(), rel=1e-5)
    assert [gradient.weight.norm().item() for gradient in by_hand] == pytest.approx(
        dense["weight_gradient"].tolist(), rel=1e-5
    )
    assert [
        gradient.bias.norm().item() for gradient in by_hand if gradient.bias is not None
    ] == pytest.approx(dense["bias_gradient"].tolist(), rel=1e-5)
    assert {3} == set(health["epoch"])


def test_layers_are_named_in_order() -> None:
    """One row for each layer with weights, under the name it has in the network."""
    names = {
        name: gradient_health.measure_gradients(network(name), *inputs_of(name))["layer"].tolist()
        for name in ("mlp", "cnn")
    }
    assert names == {"mlp": ["hidden1", "hidden2", "output"], "cnn": ["convolution", "dense", "output"]}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_measuring_changes_nothing(name: str, training: bool) -> None:
    """Weights, buffers, `.grad`, random state, the mode of every module and its hooks stay."""
    built = network(name, dropout=0.5, batch_norm=True).train(training)
    inputs, targets = inputs_of(name)
    F.cross_entropy(built(inputs), targets).backward()
    next(built.children()).training = not training  # one module in another mode than the rest
    state = copy.deepcopy(built.state_dict())
    before = [parameter.grad.clone() for parameter in built.parameters() if parameter.grad is not None]
    modes = [module.training for module in built.modules()]
    random_state = torch.get_rng_state()

    first = gradient_health.measure_gradients(built, inputs, targets)

    assert all(torch.equal(state[key], value) for key, value in built.state_dict().items())
    after = [parameter.grad for parameter in built.parameters() if parameter.grad is not None]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert modes == [module.training for module in built.modules()]
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in built.modules())
    assert not inputs.requires_grad
    pd.testing.assert_frame_equal(first, gradient_health.measure_gradients(built, inputs, targets))


def test_a_network_that_fails_is_left_untouched_too() -> None:
    """The mode and the hooks are put back when the forward pass raises."""
    built = network("mlp")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gradient_health.measure_gradients(built, torch.rand(2, 7), torch.zeros(2, 10))
    assert all(module.training for module in built.modules())
    assert not any(module._forward_hooks for module in built.modules())


def test_it_may_be_called_between_two_steps_of_a_training() -> None:
    """A training that measures after every step ends with the very weights of one that does not."""
    inputs, targets = inputs_of("mlp")
    ends = []
    for watched in (False, True):
        built = network("mlp", dropout=0.5)
        torch.manual_seed(4)
        optimizer = torch.optim.SGD(built.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(built(inputs), targets).backward()
            if watched:
                gradient_health.measure_gradients(built, inputs, targets)
            optimizer.step()
        ends.append(torch.cat([parameter.flatten() for parameter in built.parameters()]))
    assert torch.equal(*ends)


def test_dead_units_are_counted() -> None:
    """With 8 of 32 units pushed below zero for every image, a quarter is dead, no more and no less."""
    built = network("mlp")
    with torch.no_grad():
        built.get_submodule("hidden1").bias.fill_(50.0)
        built.get_submodule("hidden1").bias[:8] = -50.0
    health = gradient_health.measure_gradients(built, *inputs_of("mlp")).set_index("layer")
    assert 0.25 == health["dead"]["hidden1"]
    assert math.isnan(health["dead"]["output"])


def test_a_dead_filter_is_a_unit() -> None:
    """In a convolution a unit is a filter: dead when it is zero everywhere in every image."""
    built = network("cnn")
    with torch.no_grad():
        built.get_submodule("convolution").bias.fill_(50.0)
        built.get_submodule("convolution").bias[:4] = -50.0
    health = gradient_health.measure_gradients(built, *inputs_of("cnn")).set_index("layer")
    assert health["dead"]["convolution"] == pytest.approx(4 / 32)


def test_a_network_of_the_users_own_is_measured() -> None:
    """ReLU as plain calls, in place, and a layer called twice: every layer gets its row and numbers."""
    torch.manual_seed(0)
    built = PlainCalls()
    inputs, targets = inputs_of("mlp")
    health = gradient_health.measure_gradients(built, inputs, targets).set_index("layer")
    assert ["first", "shared", "last"] == health.index.tolist()
    assert np.isfinite(health.drop(columns="dead").to_numpy()).all()
    assert [False, False, True] == health["dead"].isna().tolist()

    first = inputs @ built.first.weight.T + built.first.bias  # δ is that of Z, not of relu(Z)
    sums = first.detach().requires_grad_()
    hidden = torch.relu(built.shared(torch.relu(sums)))
    loss = F.cross_entropy(built.last(torch.relu(built.shared(hidden))), targets)
    expected = torch.autograd.grad(loss, sums)[0].norm().item()
    assert health["delta"]["first"] == pytest.approx(expected, rel=1e-5)


def test_what_hooks_cannot_see_is_left_open() -> None:
    """Layers that give no tensor, are never called or are frozen get NaN where nothing is known."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.unused = nn.LSTM(12, 8, batch_first=True), nn.Linear(3, 3)
            self.frozen, self.last = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.frozen(self.memory(x.flatten(1, 2))[0][:, -1])))

    health = gradient_health.measure_gradients(Odd(), *batch()).set_index("layer")
    assert math.isnan(health["delta"]["memory"])
    assert health["weight_gradient"]["memory"] > 0
    assert math.isnan(health["weight_gradient"]["unused"])
    assert health["delta"]["frozen"] > 0
    assert math.isnan(health["weight_gradient"]["frozen"])
    assert gradient_health.diagnose(health.reset_index()).is_healthy


def deep(activation: type[nn.Module], depth: int, gain: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for inputs in [144] + [64] * (depth - 1):
        modules += [nn.Linear(inputs, 64), activation()]
    built = nn.Sequential(*modules, nn.Linear(64, 10))
    for module in built:
        if isinstance(module, nn.Linear) and gain != 1.0:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= gain
    return built


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_networks_of_the_house_are_healthy(name: str) -> None:
    """At their start and after some steps, mlp and cnn give no alarm."""
    built = network(name)
    inputs, targets = inputs_of(name)
    optimizer = torch.optim.SGD(built.parameters(), lr=0.05, momentum=0.9)
    tables = []
    for epoch in range(4):
        tables.append(gradient_health.measure_gradients(built, inputs, targets, epoch))
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(built(inputs), targets).backward()
            optimizer.step()
    assert str(gradient_health.diagnose(pd.concat(tables))) == "gradients: healthy"


def test_vanishing_gradients_are_named() -> None:
    """Seven sigmoid layers let next to nothing through to the first ones, and only those are named."""
    health = gradient_health.measure_gradients(deep(nn.Sigmoid, 7), *inputs_of("mlp"), epoch=2)
    warnings = gradient_health.diagnose(health).warnings
    assert warnings[0].startswith("layer 0: vanishing, ")
    assert warnings[0].endswith("of the fastest layer's pace (epoch 2; 1 of 1 epochs)")
    assert not any(warning.startswith("layer 14:") for warning in warnings)
    assert all("vanishing" in warning for warning in warnings)


def test_exploding_gradients_are_named() -> None:
    """Weights drawn three times too large make the gradients of every layer larger than the weights."""
    warnings = gradient_health.diagnose(
        gradient_health.measure_gradients(deep(nn.ReLU, 6, gain=3), *inputs_of("mlp"))
    ).warnings
    assert warnings
    assert all("exploding" in warning for warning in warnings)


def test_numbers_that_overflow_are_exploding() -> None:
    """A weight that is no longer a number is an explosion, and no other alarm is raised beside it."""
    built = network("mlp")
    with torch.no_grad():
        built.get_submodule("hidden2").weight[0, 0] = math.nan
    health = gradient_health.measure_gradients(built, *inputs_of("mlp"))
    assert math.isinf(health.set_index("layer")["weight"]["hidden2"])
    assert all("exploding" in warning for warning in gradient_health.diagnose(health).warnings)
    assert not gradient_health.diagnose(health).is_healthy


def test_a_dead_layer_is_named_with_its_worst_epoch() -> None:
    """The warning tells the highest share, its epoch and how many epochs show the trouble."""
    built, tables = network("mlp"), []
    for epoch, dead in enumerate([0, 24, 20], start=1):
        with torch.no_grad():
            built.get_submodule("hidden1").bias.fill_(1.0)
            built.get_submodule("hidden1").bias[:dead] = -50.0
            built.get_submodule("hidden2").bias.fill_(3.0)
        tables.append(gradient_health.measure_gradients(built, *inputs_of("mlp"), epoch))
    verdict = gradient_health.diagnose(pd.concat(tables, ignore_index=True))
    assert ("layer hidden1: 75% of its ReLU units are dead (epoch 2; 2 of 3 epochs)",) == verdict.warnings


def test_no_gradient_at_all_is_vanishing() -> None:
    """When every ReLU of a layer is dead, the layers before it learn nothing, and that is said."""
    built = network("mlp")
    with torch.no_grad():
        built.get_submodule("hidden2").bias.fill_(-50.0)
    warnings = gradient_health.diagnose(gradient_health.measure_gradients(built, *inputs_of("mlp"))).warnings
    assert any(warning.startswith("layer hidden1: vanishing") for warning in warnings)
    assert any(warning.startswith("layer hidden2: 100% of its ReLU units are dead") for warning in warnings)


def test_measuring_works_without_gradients_switched_on() -> None:
    """It may be called inside `torch.no_grad()`, where validation runs."""
    with torch.no_grad():
        health = gradient_health.measure_gradients(network("mlp"), *inputs_of("mlp"))
    assert (health["weight_gradient"] > 0).all()
