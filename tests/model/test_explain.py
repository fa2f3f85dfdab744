"""The worked example: its tables tell what torch finds, and its numbers can be followed by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.config import TrainConfig
from relearn.model.errors import InputError
from relearn.model.examples import compare_rates, picture_example, target, untrained, worked_example
from relearn.model.explain import Explanation, explain
from relearn.model.networks import build

SIZES = [(2, 3, 3, 1), (4, 5, 3), (2, 2, 1), (3, 2), (30, 12, 10)]


def in_torch(explanation: Explanation) -> tuple[nn.Sequential, Tensor]:
    """The same network as torch modules, and its loss by torch's own functions."""
    modules: list[nn.Module] = []
    for layer in explanation.layers:
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(layer.weight)
            assert layer.bias is not None
            linear.bias.copy_(layer.bias)
        modules += [linear, nn.ReLU()]
    network = nn.Sequential(*modules[:-1])
    logits = network(explanation.inputs)
    if logits.shape[1] == 1:
        return network, F.binary_cross_entropy_with_logits(logits, explanation.targets)
    return network, F.cross_entropy(logits, explanation.targets.argmax(1))


@pytest.mark.parametrize("sizes", SIZES)
def test_the_update_is_that_of_torch(sizes: tuple[int, ...]) -> None:
    """Before, gradient and after of every weight and bias are those of autograd and torch.optim.SGD."""
    explanation = worked_example(sizes, steps=1, learning_rate=0.3, seed=4)
    network, loss = in_torch(explanation)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    loss.backward()
    slopes = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    optimizer.step()

    def column(values: list[Tensor]) -> list[float]:  # a weight (out, in) is told by what it comes from
        return torch.cat([torch.atleast_2d(value.detach()).T.flatten() for value in values]).tolist()

    table = explanation.update_table()
    assert column(before) == table["before"].tolist()
    assert column(slopes) == pytest.approx(table["gradient"].tolist(), abs=1e-10)
    assert column(list(network.parameters())) == pytest.approx(table["after"].tolist(), abs=1e-10)
    assert loss.item() == pytest.approx(explanation.losses[0], abs=1e-10)


def test_the_steps_are_those_of_torch() -> None:
    """Thirty steps with momentum have the losses that torch.optim.SGD has."""
    explanation = worked_example((2, 3, 3, 1), steps=30, learning_rate=0.1, momentum=0.9)
    network, _ = in_torch(explanation)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(31):
        loss = F.binary_cross_entropy_with_logits(network(explanation.inputs), explanation.targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == pytest.approx(explanation.losses, abs=1e-10)
    assert losses == pytest.approx(explanation.loss_table()["loss"].tolist(), abs=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_the_numbers_shown_are_the_numbers_used(seed: int) -> None:
    """Every sum can be recomputed from the two decimals that the first layer's computation shows."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=seed)
    for row in explanation.forward_table().query("layer == 1").itertuples():
        text = row.computation.replace("−", "-").replace("·", "*").replace("- ", "-").replace("+ ", "+")
        assert eval(text) == pytest.approx(row.sum, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_half_of_every_hidden_layer_is_active(seed: int) -> None:
    """Whatever the seed, there is something to see flowing back."""
    explanation = worked_example((2, 3, 4, 1), steps=1, seed=seed)
    for z in explanation.passed.z[:-1]:
        assert 2 * (z > 0).sum() >= z.shape[1]


def test_the_tables_have_their_columns_and_order() -> None:
    """One row for each unit, for each output, from the output back, for each weight and bias."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=2)
    forward, error = explanation.forward_table(), explanation.error_table()
    delta, update = explanation.delta_table(), explanation.update_table()
    assert ["N11", "N12", "N13", "N21", "N22", "N23", "O1"] == forward["unit"].tolist()
    assert ["relu"] * 6 + ["sigmoid"] == forward["function"].tolist()
    assert ["O1", "N21", "N22", "N23", "N11", "N12", "N13"] == delta["unit"].tolist()
    assert 2 * 3 + 3 + 3 * 3 + 3 + 3 + 1 == len(update)
    assert ["X1", "N11"] == update.loc[0, ["from", "to"]].tolist()
    assert error["error"][0] == delta["delta"][0] == error["output"][0] - error["target"][0]


def test_delta_is_what_came_back_times_the_slope() -> None:
    """A silent unit gets a δ of zero whatever came back, an active one all of it."""
    table = worked_example((2, 3, 3, 1), steps=1, seed=2).delta_table()
    hidden = table[table["slope"].notna()]
    assert {0, 1} == set(hidden["slope"])
    assert (hidden["came_back"] * hidden["slope"]).tolist() == hidden["delta"].tolist()
    assert pd.NA is table["slope"][0]


def test_seeds_repeat() -> None:
    """The same seed gives the same example, another seed another."""
    first, again, other = (worked_example((2, 3, 3, 1), steps=2, seed=seed) for seed in (5, 5, 6))
    assert first.losses == again.losses
    assert first.losses != other.losses


def test_drawing_an_example_leaves_the_random_state_alone() -> None:
    """Neither the small example nor the untrained network moves torch's own random state."""
    before = torch.get_rng_state()
    worked_example((2, 3, 1), steps=1)
    untrained((16, 4, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_units_of_wide_layers_have_distinct_names() -> None:
    """Unit 11 of layer 1 and unit 1 of layer 11 are not both called N111."""
    names = worked_example((12, 11, 3), steps=1).names
    assert "N1.11" == names[1][10]
    assert len({name for layer in names for name in layer}) == 26


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_picture_goes_through_a_real_network(name: str) -> None:
    """The probabilities are those of the network, the names those of the classes, and nothing is changed."""
    torch.manual_seed(0)
    network = build(TrainConfig(network=name, hidden=(16,), dropout=0.4), (1, 12, 12), 10).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = np.random.default_rng(1).integers(0, 256, (1, 12, 12), dtype=np.uint8)
    classes = [f"class{number}" for number in range(10)]
    explanation = picture_example(network, image, "class4", classes, steps=3, learning_rate=0.1)

    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    pixels = torch.from_numpy(image)[None].float() / 255
    expected = network.eval()(pixels.flatten(1) if name == "mlp" else pixels).softmax(1)[0]
    table = explanation.error_table()
    assert expected.tolist() == pytest.approx(table["output"].tolist(), abs=1e-6)
    assert "O(class4)" == table["unit"][table["target"] == 1].item()
    assert explanation.losses[0] > explanation.losses[-1]
    assert "144 products" in explanation.forward_table()["computation"][0] or name == "cnn"


def test_a_label_that_is_no_class_is_refused() -> None:
    """The message names the classes there are."""
    image = np.zeros((1, 4, 4), dtype=np.uint8)
    with pytest.raises(InputError, match="got 'five', accepted: no, yes"):
        picture_example(untrained((16, 2)), image, "five", ["no", "yes"])


def test_targets_of_one_and_of_many_outputs() -> None:
    """One-hot for several outputs, the label itself for a single one."""
    assert [[0.0, 0.0, 1.0]] == target(2, 3).tolist()
    assert [[1.0]] == target(1, 1).tolist()


def test_a_learning_rate_can_be_too_large_and_too_small() -> None:
    """On the 16 examples a middle rate ends below both a tiny one and a huge one."""
    explanation = worked_example((2, 3, 3, 1), steps=1, seed=2)
    ends = compare_rates(explanation, [0.005, 0.5, 50], steps=100).groupby("learning_rate")["loss"].last()
    assert ends[0.5] < ends[0.005] < ends[50]
    assert 3 * 101 == len(compare_rates(explanation, [0.1, 0.2, 0.3], steps=100))


def test_a_batch_is_explained_by_its_mean() -> None:
    """With several rows the loss is their mean, as everywhere else."""
    explanation = worked_example((2, 3, 2), steps=1)
    twice = explain(
        explanation.layers, explanation.inputs.repeat(2, 1), explanation.targets.repeat(2, 1), steps=5
    )
    once = explain(explanation.layers, explanation.inputs, explanation.targets, steps=5)
    assert once.losses == pytest.approx(twice.losses, abs=1e-12)
    assert math.isfinite(twice.losses[-1])
