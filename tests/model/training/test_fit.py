"""The loop: the same mathematics as the plain one, and it stops when and how it says."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.data.transforms import expects_flat_input
from relearn.model.errors import InfrastructureError, UserInputError
from relearn.model.networks.registry import build_network
from relearn.model.training.batches import BatchLoader
from relearn.model.training.fit import FitResult, fit
from relearn.model.training.state import EarlyStopping, EpochRecord, TrainingSnapshot

SHAPE = (1, 12, 12)
CLASSES = 4


def labelled(count: int, seed: int = 0) -> LabelledImages:
    """Noise with a bright quarter; the quarter is the label."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    images = draw.integers(0, 120, (count, *SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[0, row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] += 100
    return LabelledImages(images, labels)


SPLITS = Splits(labelled(500), labelled(100, 1), labelled(100, 2))


def trained(splits: Splits = SPLITS, **settings: object) -> tuple[nn.Module, FitResult]:
    config = TrainConfig.parse({"hidden_sizes": [32], "batch_size": 32, "threads": 1, **settings})
    network = build_network(config, SHAPE, CLASSES)
    return network, fit(config, network, splits, CLASSES)


def plain_epoch(config: TrainConfig, network: nn.Module, order: Tensor) -> None:
    """One epoch as every introduction writes it."""
    rule = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    images = torch.from_numpy(SPLITS.train.images).float() / 255
    labels = torch.from_numpy(SPLITS.train.labels)
    for batch in order.split(config.batch_size):
        inputs = images[batch].flatten(1) if expects_flat_input(network) else images[batch]
        rule.zero_grad()
        F.cross_entropy(network(inputs), labels[batch]).backward()
        rule.step()


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("batch_size", [32, 150])
def test_an_epoch_equals_the_plain_loop(name: str, batch_size: int) -> None:
    """Slices, layout and fused updates change no weight by more than 1e-4 of its size in an epoch."""
    config = TrainConfig(
        network=name, hidden_sizes=(32,), batch_size=batch_size, epochs=1, lr_schedule="constant", threads=1
    )
    ours, plain = build_network(config, SHAPE, CLASSES), build_network(config, SHAPE, CLASSES)
    order = torch.arange(len(SPLITS.train))
    shuffled = BatchLoader(
        LabelledImages(SPLITS.train.images, order.numpy()), ours, len(order), batch_size, torch.device("cpu")
    )
    seen = torch.cat([targets for batch in shuffled.iterate_shuffled(config.seed, 1) for _, targets in batch])
    plain_epoch(config, plain, seen.argmax(1))
    fit(config, ours, SPLITS, CLASSES)
    for name_, expected in plain.state_dict().items():
        torch.testing.assert_close(expected, ours.state_dict()[name_], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adagrad"])
def test_a_handful_of_images_is_learned_by_heart(name: str, optimizer: str) -> None:
    """A network that learns at all gets 32 images of noise right."""
    draw = np.random.default_rng(3)
    noise = LabelledImages(draw.integers(0, 256, (32, *SHAPE), dtype=np.uint8), draw.integers(0, CLASSES, 32))
    rate = {"sgd": 0.05, "rmsprop": 0.001, "adagrad": 0.02}[optimizer]
    settings = {"optimizer": optimizer, "learning_rate": rate, "momentum": 0.9 if optimizer == "sgd" else 0}
    _, result = trained(
        Splits(noise, noise, noise), network=name, epochs=80, batch_size=8, lr_schedule="constant",
        early_stopping=False, **settings,
    )  # fmt: skip
    assert 1.0 == result.history[-1].train_accuracy


def test_every_schedule_ends_well() -> None:
    """Each schedule learns the easy images, and moves the learning rate as it says."""
    last = {}
    for schedule in ("constant", "cosine", "one_cycle"):
        _, result = trained(lr_schedule=schedule, epochs=3, learning_rate=0.05)
        last[schedule] = result.history[-1].learning_rate
        assert result.history[-1].val_accuracy > 0.95
    assert 0.05 == last["constant"]
    assert max(last["cosine"], last["one_cycle"]) < 0.0005


def test_the_same_seed_gives_the_same_weights() -> None:
    """A training is repeatable to the last bit, dropout included; another seed gives another."""
    settings = {"epochs": 2, "dropout": 0.3}
    first, second = trained(seed=5, **settings)[0], trained(seed=5, **settings)[0]
    other = trained(seed=6, **settings)[0]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first[0].weight, other[0].weight)


def test_the_order_of_images_depends_on_seed_and_epoch_alone() -> None:
    """Every epoch shows each image once, in an order of its own that does not change between runs."""
    batches = BatchLoader(
        LabelledImages(SPLITS.train.images, np.arange(500)),
        build_network(TrainConfig(hidden_sizes=(2,)), SHAPE, CLASSES), 500, 32, torch.device("cpu"),
    )  # fmt: skip

    def order(seed: int, epoch: int) -> list[int]:
        return [
            int(i)
            for batch in batches.iterate_shuffled(seed, epoch)
            for _, one in batch
            for i in one.argmax(1)
        ]

    assert list(range(500)) == sorted(order(0, 1))
    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def record(epoch: int, val_loss: float) -> EpochRecord:
    return EpochRecord(epoch, 0.0, 1.0, val_loss, 1 - val_loss, 0.1, 1.0)


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_patience_counts_epochs_without_improvement(monitor: str) -> None:
    """Waiting ends after `patience` epochs that were not better by `min_delta`."""
    patience = EarlyStopping(TrainConfig.parse({"monitor": monitor, "patience": 2, "min_delta": 0.01}))
    losses = [0.5, 0.4, 0.395, 0.3, 0.3, 0.35]
    assert [True, True, False, True, False, False] == [
        patience.update(record(epoch, loss)) for epoch, loss in enumerate(losses, start=1)
    ]
    assert (True, 4) == (patience.should_stop, patience.best_epoch)


def test_early_stopping_restores_the_best_epoch() -> None:
    """Training stops when validation no longer improves, and ends with the weights of its best epoch."""
    swapped = LabelledImages(SPLITS.validation.images, (SPLITS.validation.labels + 1) % CLASSES)
    splits = Splits(SPLITS.train, swapped, SPLITS.test)  # the more is learned, the worse it gets
    network, result = trained(splits, epochs=50, patience=3, lr_schedule="constant")
    assert (1, 4) == (result.best_epoch, len(result.history))
    assert "no better val_loss for 3 epochs" == result.stop_reason
    once, _ = trained(splits, epochs=1, lr_schedule="constant")
    assert torch.equal(once[0].weight, network[0].weight)


def test_without_early_stopping_every_epoch_runs() -> None:
    """Switched off, nothing ends a training early."""
    swapped = LabelledImages(SPLITS.validation.images, (SPLITS.validation.labels + 1) % CLASSES)
    _, result = trained(
        Splits(SPLITS.train, swapped, SPLITS.test), epochs=6, patience=1, early_stopping=False
    )
    assert (6, "all epochs done") == (len(result.history), result.stop_reason)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    """An exploding loss is one line that names the epoch and proposes what to do."""
    with pytest.raises(
        UserInputError,
        match=r"in (training|validation), epoch \d, batch \d+, accepted: finite numbers; "
        r"try a learning rate below 10",
    ):
        trained(learning_rate=10, weight_decay=1, lr_schedule="constant", epochs=3)


def test_training_stops_when_asked() -> None:
    """`should_stop` is heard between two batches, and a half epoch leaves no record."""
    config = TrainConfig(hidden_sizes=(8,), batch_size=32, epochs=5)
    asked = iter([False] * 24 + [True] * 1000)
    result = fit(
        config, build_network(config, SHAPE, CLASSES), SPLITS, CLASSES, should_stop=lambda: next(asked)
    )
    assert ("asked to stop", 1) == (result.stop_reason, len(result.history))


def test_callers_hear_of_every_epoch() -> None:
    """`on_epoch` gets the records that the result holds, in order."""
    heard: list[EpochRecord] = []
    config = TrainConfig(hidden_sizes=(8,), epochs=3)
    result = fit(config, build_network(config, SHAPE, CLASSES), SPLITS, CLASSES, on_epoch=heard.append)
    assert list(result.history) == heard
    assert [1, 2, 3] == [one.epoch for one in heard]
    assert [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
    ] == list(result.to_frame().columns)


def test_a_batch_that_does_not_fit_is_one_line() -> None:
    """It proposes half of it, and comes from a real limit: 4 TB for one tensor."""
    config = TrainConfig(batch_size=300, hidden_sizes=(8,), epochs=1)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(144, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs.flatten(1)) + torch.ones(2**40).sum()

    with pytest.raises(InfrastructureError, match="300 images do not fit into memory, try --batch-size 150"):
        fit(config, Wide(), SPLITS, CLASSES)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_batch_norm_needs_two_images_a_batch(network: str) -> None:
    """A last batch of one is refused before any work."""
    with pytest.raises(UserInputError, match="batch_size: got 499, which leaves one image of 500"):
        trained(network=network, batch_norm=True, batch_size=499, epochs=1)


def test_a_network_that_does_not_say_otherwise_sees_whole_batches() -> None:
    """What it computes over a batch is computed over all of it."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []
            self.layer = nn.Linear(144, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(len(images))
            return self.layer(images.flatten(1))

    network = Counting()
    fit(TrainConfig(batch_size=400, epochs=1, threads=1), network, SPLITS, CLASSES)
    assert [400, 100, 100] == network.seen


def test_weights_that_are_no_numbers_are_never_saved() -> None:
    """Not where a training is stopped before any loss has shown them either."""

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(144, CLASSES)
            self.steep = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1)) + self.steep.sqrt()  # infinitely steep at 0

    saved = list[TrainingSnapshot]()
    asked = iter([False] + [True] * 10)
    with pytest.raises(
        UserInputError, match="weights: got some that are not, epoch 1, batch 1, accepted: finite"
    ):
        fit(
            TrainConfig(threads=1),
            Steep(),
            SPLITS,
            CLASSES,
            on_checkpoint=saved.append,
            should_stop=lambda: next(asked),
        )
    assert 1 == len(saved)
