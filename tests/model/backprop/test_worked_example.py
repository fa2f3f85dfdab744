"""Tests of the worked examples: tables agree with torch, and their numbers can be recomputed by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.backprop.worked_example import (
    WorkedExample,
    compare_learning_rates,
    format_number,
    image_example,
    one_hot,
    random_example,
    random_mlp,
    trace_sgd,
)
from relearn.model.config import TrainConfig
from relearn.model.errors import UserInputError
from relearn.model.networks.registry import build_network

SIZES = [(2, 3, 3, 1), (4, 5, 3), (2, 2, 1), (3, 2), (30, 12, 10)]


def to_torch(example: WorkedExample) -> tuple[nn.Sequential, Tensor]:
    """Return the same network as torch modules, and its loss computed by torch."""
    modules: list[nn.Module] = []
    for layer in example.layers:
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(layer.weight)
            assert layer.bias is not None
            linear.bias.copy_(layer.bias)
        modules += [linear, nn.ReLU()]
    network = nn.Sequential(*modules[:-1])
    logits = network(example.inputs)
    if logits.shape[1] == 1:
        return network, F.binary_cross_entropy_with_logits(logits, example.targets)
    return network, F.cross_entropy(logits, example.targets.argmax(1))


@pytest.mark.parametrize("sizes", SIZES)
def test_update_table_agrees_with_torch(sizes: tuple[int, ...]) -> None:
    """Before, gradient and after of every weight and bias equal those of autograd and torch.optim.SGD."""
    example = random_example(sizes, steps=1, learning_rate=0.3, seed=4)
    network, loss = to_torch(example)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    optimizer.step()

    def column(values: list[Tensor]) -> list[float]:  # the table lists a weight (out, in) by its input unit
        return torch.cat([torch.atleast_2d(value.detach()).T.flatten() for value in values]).tolist()

    table = example.update_table()
    assert column(before) == table["before"].tolist()
    assert column(gradients) == pytest.approx(table["gradient"].tolist(), abs=1e-10)
    assert column(list(network.parameters())) == pytest.approx(table["after"].tolist(), abs=1e-10)
    assert loss.item() == pytest.approx(example.losses[0], abs=1e-10)


def test_losses_agree_with_torch() -> None:
    """Thirty steps with momentum have the losses of torch.optim.SGD."""
    example = random_example((2, 3, 3, 1), steps=30, learning_rate=0.1, momentum=0.9)
    network, _ = to_torch(example)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(31):
        loss = F.binary_cross_entropy_with_logits(network(example.inputs), example.targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == pytest.approx(example.losses, abs=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_displayed_numbers_are_exact(seed: int) -> None:
    """Every z of the first layer can be recomputed from the two decimals of its displayed computation."""
    example = random_example((2, 3, 3, 1), steps=1, seed=seed)
    for row in example.forward_table().head(3).itertuples():
        text = row.computation.replace("−", "-").replace("·", "*")
        assert eval(text) == pytest.approx(row.z, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_half_of_every_hidden_layer_is_active(seed: int) -> None:
    """For any seed, gradients flow through at least half of the units."""
    example = random_example((2, 3, 4, 1), steps=1, seed=seed)
    for z in example.forward_pass.pre_activations[:-1]:
        assert 2 * (z > 0).sum() >= z.shape[1]


def test_tables_have_their_columns_and_order() -> None:
    """Rows: per unit (forward), per output (error), from the output back (delta), per weight (update)."""
    example = random_example((2, 3, 3, 1), steps=1, seed=2)
    forward, error = example.forward_table(), example.error_table()
    delta, update = example.delta_table(), example.update_table()
    assert ["N11", "N12", "N13", "N21", "N22", "N23", "O1"] == forward["unit"].tolist()
    assert ["unit", "computation", "z", "activation"] == list(forward.columns)
    assert ["O1", "N21", "N22", "N23", "N11", "N12", "N13"] == delta["unit"].tolist()
    assert 2 * 3 + 3 + 3 * 3 + 3 + 3 + 1 == len(update)
    assert ["X1", "N11"] == update.loc[0, ["from", "to"]].tolist()
    assert error["error"][0] == delta["delta"][0] == error["output"][0] - error["target"][0]


def test_delta_is_the_upstream_gradient_times_the_derivative_of_relu() -> None:
    """An inactive unit has a δ of zero, an active unit its full upstream gradient."""
    table = random_example((2, 3, 3, 1), steps=1, seed=2).delta_table()
    hidden = table[table["relu_grad"].notna()]
    assert {0, 1} == set(hidden["relu_grad"])
    assert (hidden["upstream_gradient"] * hidden["relu_grad"]).tolist() == hidden["delta"].tolist()
    assert pd.NA is table["relu_grad"][0]


def test_examples_are_reproducible() -> None:
    """The same seed gives the same example, a different seed a different one."""
    first, same_seed, different_seed = (
        random_example((2, 3, 3, 1), steps=2, seed=seed) for seed in (5, 5, 6)
    )
    assert first.losses == same_seed.losses
    assert first.losses != different_seed.losses


def test_random_examples_keep_the_random_state_of_torch() -> None:
    """Neither the random example nor the random network changes torch's global random state."""
    before = torch.get_rng_state()
    random_example((2, 3, 1), steps=1)
    random_mlp((16, 4, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_units_of_wide_layers_have_distinct_names() -> None:
    """Unit 11 of layer 1 and unit 1 of layer 11 have different names, not both N111."""
    names = random_example((12, 11, 3), steps=1).unit_names
    assert "N1.11" == names[1][10]
    assert len({name for layer in names for name in layer}) == 26


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_image_example_has_the_outputs_of_the_network(name: str) -> None:
    """Probabilities and class names equal those of the network, which is not changed."""
    torch.manual_seed(0)
    network = build_network(
        TrainConfig(network=name, hidden_sizes=(16,), dropout=0.4), (1, 12, 12), 10
    ).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = np.random.default_rng(1).integers(0, 256, (1, 12, 12), dtype=np.uint8)
    classes = [f"class{number}" for number in range(10)]
    example = image_example(network, image, "class4", classes, steps=3, learning_rate=0.1)

    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    pixels = torch.from_numpy(image)[None].float() / 255
    expected = network.eval()(pixels.flatten(1) if name == "mlp" else pixels).softmax(1)[0]
    table = example.error_table()
    assert expected.tolist() == pytest.approx(table["output"].tolist(), abs=1e-6)
    assert "O(class4)" == table["unit"][table["target"] == 1].item()
    assert example.losses[0] > example.losses[-1]
    assert "144 products" in example.forward_table()["computation"][0] or name == "cnn"


def test_unknown_label_is_rejected() -> None:
    """The error lists the classes."""
    image = np.zeros((1, 4, 4), dtype=np.uint8)
    with pytest.raises(UserInputError, match="got 'five', accepted: no, yes"):
        image_example(random_mlp((16, 2)), image, "five", ["no", "yes"])


def test_targets_of_one_and_of_several_outputs() -> None:
    """The target is one-hot for several outputs, and the label itself for a single output."""
    assert [[0.0, 0.0, 1.0]] == one_hot(2, 3).tolist()
    assert [[1.0]] == one_hot(1, 1).tolist()


def test_a_learning_rate_can_be_too_large_and_too_small() -> None:
    """On the 16 examples a medium rate ends with a lower loss than a tiny and a huge rate."""
    example = random_example((2, 3, 3, 1), steps=1, seed=2)
    losses = compare_learning_rates(example, [0.005, 0.5, 50], steps=100)
    assert losses[0.5][-1] < losses[0.005][-1] < losses[50][-1]
    assert [101] * 3 == [len(values) for values in losses.values()]


def test_loss_of_a_batch_is_the_mean() -> None:
    """With several rows the loss is the mean over the rows."""
    example = random_example((2, 3, 2), steps=1)
    twice = trace_sgd(example.layers, example.inputs.repeat(2, 1), example.targets.repeat(2, 1), steps=5)
    once = trace_sgd(example.layers, example.inputs, example.targets, steps=5)
    assert once.losses == pytest.approx(twice.losses, abs=1e-12)
    assert math.isfinite(twice.losses[-1])


@pytest.mark.parametrize("sizes", SIZES)
def test_autograd_agrees(sizes: tuple[int, ...]) -> None:
    """The difference between δ and autograd is within rounding error."""
    assert random_example(sizes, steps=1, seed=4).autograd_error < 1e-14


@pytest.mark.parametrize(("value", "expected"), [(1.005, "1.00"), (-0.5, "−0.50"), (-0.001, "0.00")])
def test_numbers_have_a_real_minus_sign(value: float, expected: str) -> None:
    """Negative numbers have a typographic minus sign, and zero has none."""
    assert expected == format_number(value)
