"""Training loop: equal to a plain PyTorch loop, reproducible, with early stopping and clear errors."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.data.transforms import expects_flat_input
from relearn.model.errors import ConfigError, InfrastructureError, UserInputError
from relearn.model.networks.registry import build_network
from relearn.model.training.batches import BatchLoader
from relearn.model.training.fit import FitResult, build_training_loss, fit
from relearn.model.training.optimizers import build_optimizer
from relearn.model.training.state import EarlyStopping, EpochRecord, TrainingSnapshot

SHAPE = (1, 12, 12)
CLASSES = 4


def make_images(count: int, seed: int = 0) -> LabelledImages:
    """Make noise images with one bright quadrant; its number is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.integers(0, 120, (count, *SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[0, row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] += 100
    return LabelledImages(images, labels)


SPLITS = Splits(make_images(500), make_images(100, 1), make_images(100, 2))


def train(splits: Splits = SPLITS, **settings: object) -> tuple[nn.Module, FitResult]:
    config = TrainConfig.parse(
        {"hidden_sizes": [32], "batch_size": 32, "dropout": 0, "threads": 1, **settings}
    )
    network = build_network(config, SHAPE, CLASSES)
    return network, fit(config, network, splits, CLASSES)


def run_plain_epoch(config: TrainConfig, network: nn.Module, order: Tensor) -> None:
    """Run one epoch with a plain PyTorch loop."""
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    images = torch.from_numpy(SPLITS.train.images).float() / 255
    labels = torch.from_numpy(SPLITS.train.labels)
    for batch in order.split(config.batch_size):
        inputs = images[batch].flatten(1) if expects_flat_input(network) else images[batch]
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), labels[batch]).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("batch_size", [32, 150])
def test_epoch_equals_the_plain_loop(name: str, batch_size: int) -> None:
    """Micro-batches, memory layout and fused updates change weights by less than 1e-4, relatively."""
    config = TrainConfig(
        network=name, hidden_sizes=(32,), batch_size=batch_size, epochs=1, lr_schedule="constant", threads=1,
        dropout=0, weight_decay=0,
    )  # fmt: skip
    ours, plain = build_network(config, SHAPE, CLASSES), build_network(config, SHAPE, CLASSES)
    order = torch.arange(len(SPLITS.train))
    loader = BatchLoader(
        LabelledImages(SPLITS.train.images, order.numpy()), ours, len(order), batch_size, torch.device("cpu")
    )
    shuffled = torch.cat(
        [targets for batch in loader.iterate_shuffled(config.seed, 1) for _, targets in batch]
    )
    run_plain_epoch(config, plain, shuffled.argmax(1))
    fit(config, ours, SPLITS, CLASSES)
    for weight_name, expected in plain.state_dict().items():
        torch.testing.assert_close(expected, ours.state_dict()[weight_name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("optimizer", get_args(TrainConfig.model_fields["optimizer"].annotation))
def test_small_dataset_is_memorized(name: str, optimizer: str) -> None:
    """Each network reaches a training accuracy of 1 on 32 noise images with each optimizer."""
    rng = np.random.default_rng(3)
    noise = LabelledImages(rng.integers(0, 256, (32, *SHAPE), dtype=np.uint8), rng.integers(0, CLASSES, 32))
    learning_rate = {"sgd": 0.05, "rmsprop": 0.001, "adagrad": 0.02, "adam": 0.002, "adamw": 0.002}.get(
        optimizer, 0.01
    )
    settings = {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "momentum": 0.9 if optimizer == "sgd" else 0,
    }
    _, result = train(
        Splits(noise, noise, noise), network=name, epochs=80, batch_size=8, lr_schedule="constant",
        early_stopping=False, **settings,
    )  # fmt: skip
    assert 1.0 == result.history[-1].train_accuracy


@pytest.mark.parametrize("optimizer", get_args(TrainConfig.model_fields["optimizer"].annotation))
def test_only_matrices_and_filters_decay(optimizer: str) -> None:
    """A step without gradients changes parameters of two or more dimensions, and no others."""
    settings = {"network": "cnn", "batch_norm": True, "optimizer": optimizer, "weight_decay": 0.1}
    config = TrainConfig.parse(settings)
    network = build_network(config, SHAPE, CLASSES)
    initial = {name: value.detach().clone() for name, value in network.named_parameters()}
    for value in network.parameters():
        value.grad = torch.zeros_like(value)
    build_optimizer(config, network).step()
    for name, value in network.named_parameters():
        assert torch.equal(value, initial[name]) == (value.ndim <= 1), name


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0, 0.9), st.integers(0, 99))
def test_every_class_contributes_the_same_to_a_balanced_loss(
    counts: list[int], label_smoothing: float, seed: int
) -> None:
    """With balanced weights the loss is the mean over the classes of their mean losses, times the images."""
    labels = np.repeat(np.arange(len(counts)), counts)
    config = TrainConfig(class_weights="balanced")
    logits = torch.randn(len(labels), len(counts), generator=torch.Generator().manual_seed(seed))
    targets = F.one_hot(torch.from_numpy(labels)).float()
    loss = build_training_loss(config, labels, len(counts), torch.device("cpu"))
    per_image = F.cross_entropy(logits, targets, reduction="none").numpy()
    means = [per_image[labels == label].mean() for label in range(len(counts))]
    assert loss(logits, targets, reduction="sum") == pytest.approx(len(labels) * np.mean(means), rel=1e-4)

    smooth = build_training_loss(
        config.model_copy(update={"class_weights": "none", "label_smoothing": label_smoothing}),
        labels, len(counts), torch.device("cpu"),
    )  # fmt: skip
    spread = (1 - label_smoothing) * targets + label_smoothing / len(counts)
    expected = -(spread * logits.log_softmax(1)).sum()
    assert smooth(logits, targets, reduction="sum").item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"label_smoothing": 0.3}], ids=str)
def test_training_minimizes_the_loss_of_its_settings(settings: dict[str, object]) -> None:
    """The recorded training loss is that of the settings, the validation loss the plain cross-entropy."""
    is_kept = (SPLITS.train.labels != 0) | (np.arange(500) < 20)  # a few images of class 0
    train_split = LabelledImages(SPLITS.train.images[is_kept], SPLITS.train.labels[is_kept])
    splits = Splits(train_split, train_split, train_split)
    # The weights stay as they are initially, so both losses are those of the same weights.
    network, result = train(splits, epochs=1, learning_rate=1e-9, momentum=0, **settings)
    logits = network(torch.from_numpy(train_split.images).flatten(1).float() / 255)
    targets = F.one_hot(torch.from_numpy(train_split.labels)).float()
    config = TrainConfig.parse(settings)
    loss = build_training_loss(config, train_split.labels, CLASSES, torch.device("cpu"))
    record = result.history[0]
    assert record.train_loss == pytest.approx(loss(logits, targets).item(), rel=1e-4)
    assert record.val_loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-4)
    assert record.train_loss != pytest.approx(record.val_loss, rel=1e-3)


def test_balanced_accuracy_is_the_mean_recall() -> None:
    """The recorded value equals the mean over the classes of the fraction of their images found."""
    network, result = train(epochs=1)
    images = torch.from_numpy(SPLITS.validation.images).float() / 255
    is_correct = network(images.flatten(1)).argmax(1).numpy() == SPLITS.validation.labels
    recalls = [is_correct[SPLITS.validation.labels == label].mean() for label in range(CLASSES)]
    assert result.history[0].val_balanced_accuracy == pytest.approx(np.mean(recalls))


def test_every_lr_schedule_trains_well() -> None:
    """Validation accuracy exceeds 0.95; the last learning rate is that of the schedule."""
    last_rate = {}
    for schedule in ("constant", "cosine", "one_cycle"):
        _, result = train(lr_schedule=schedule, epochs=3, learning_rate=0.05)
        last_rate[schedule] = result.history[-1].learning_rate
        assert result.history[-1].val_accuracy > 0.95
    assert 0.05 == last_rate["constant"]
    assert max(last_rate["cosine"], last_rate["one_cycle"]) < 0.0005


def test_same_seed_gives_the_same_weights() -> None:
    """Training is reproducible bit for bit, including dropout; another seed gives other weights."""
    settings = {"epochs": 2, "dropout": 0.3}
    first, second = train(seed=5, **settings)[0], train(seed=5, **settings)[0]
    different = train(seed=6, **settings)[0]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first[0].weight, different[0].weight)


def test_order_of_images_depends_on_seed_and_epoch_alone() -> None:
    """Every epoch has each image once, in its own order, which is the same in every run."""
    loader = BatchLoader(
        LabelledImages(SPLITS.train.images, np.arange(500)),
        build_network(TrainConfig(hidden_sizes=(2,)), SHAPE, CLASSES), 500, 32, torch.device("cpu"),
    )  # fmt: skip

    def order(seed: int, epoch: int) -> list[int]:
        return [
            int(index)
            for batch in loader.iterate_shuffled(seed, epoch)
            for _, targets in batch
            for index in targets.argmax(1)
        ]

    assert list(range(500)) == sorted(order(0, 1))
    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


def make_record(epoch: int, val_loss: float) -> EpochRecord:
    return EpochRecord(epoch, 0.0, 1.0, val_loss, 1 - val_loss, 1 - val_loss, 0.1, 1.0)


@pytest.mark.parametrize("monitor", get_args(TrainConfig.model_fields["selection_metric"].annotation))
def test_patience_counts_epochs_without_improvement(monitor: str) -> None:
    """Training stops after `patience` epochs without an improvement of `min_delta`."""
    early_stopping = EarlyStopping(
        TrainConfig.parse({"selection_metric": monitor, "patience": 2, "min_delta": 0.01})
    )
    losses = [0.5, 0.4, 0.395, 0.3, 0.3, 0.35]
    assert [True, True, False, True, False, False] == [
        early_stopping.update(make_record(epoch, loss)) for epoch, loss in enumerate(losses, start=1)
    ]
    assert (True, 4) == (early_stopping.should_stop, early_stopping.best_epoch)


def test_early_stopping_restores_the_best_epoch() -> None:
    """Training stops when validation no longer improves, and keeps the weights of the best epoch."""
    swapped = LabelledImages(SPLITS.validation.images, (SPLITS.validation.labels + 1) % CLASSES)
    splits = Splits(SPLITS.train, swapped, SPLITS.test)  # validation gets worse with every epoch
    settings = {"lr_schedule": "constant", "selection_metric": "val_loss"}
    network, result = train(splits, epochs=50, patience=3, **settings)
    assert (1, 4) == (result.best_epoch, len(result.history))
    assert "no better val_loss for 3 epochs" == result.stop_reason
    one_epoch, _ = train(splits, epochs=1, **settings)
    assert torch.equal(one_epoch[0].weight, network[0].weight)


def test_without_early_stopping_every_epoch_runs() -> None:
    """With `early_stopping=False` a training runs all epochs, although validation gets worse."""
    swapped = LabelledImages(SPLITS.validation.images, (SPLITS.validation.labels + 1) % CLASSES)
    _, result = train(Splits(SPLITS.train, swapped, SPLITS.test), epochs=6, patience=1, early_stopping=False)
    assert (6, "all epochs done") == (len(result.history), result.stop_reason)


def test_non_finite_loss_ends_the_training() -> None:
    """The message has the split, epoch and batch, and proposes a lower learning rate."""
    with pytest.raises(
        UserInputError,
        match=r"in (training|validation), epoch \d, batch \d+, accepted: finite numbers; "
        r"try a learning rate below 10",
    ):
        train(learning_rate=10, weight_decay=1, lr_schedule="constant", epochs=3)


def test_should_stop_ends_the_training() -> None:
    """`should_stop` is called between two batches; an incomplete epoch is not in the history."""
    config = TrainConfig(hidden_sizes=(8,), batch_size=32, epochs=5)
    stop_answers = iter([False] * 24 + [True] * 1000)
    result = fit(
        config, build_network(config, SHAPE, CLASSES), SPLITS, CLASSES, should_stop=lambda: next(stop_answers)
    )
    assert ("asked to stop", 1) == (result.stop_reason, len(result.history))


def test_on_epoch_is_called_for_every_epoch() -> None:
    """It receives the records of the result, in order."""
    records: list[EpochRecord] = []
    config = TrainConfig(hidden_sizes=(8,), epochs=3)
    result = fit(config, build_network(config, SHAPE, CLASSES), SPLITS, CLASSES, on_epoch=records.append)
    assert list(result.history) == records
    assert [1, 2, 3] == [record.epoch for record in records]
    assert [
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_balanced_accuracy",
        "learning_rate",
        "seconds",
    ] == list(result.to_frame().columns)


def test_out_of_memory_is_reported_in_one_line() -> None:
    """The message proposes half the batch size; the error is real, since a tensor of 4 TB is allocated."""
    config = TrainConfig(batch_size=300, hidden_sizes=(8,), epochs=1)

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(144, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(inputs.flatten(1)) + torch.ones(2**40).sum()

    with pytest.raises(InfrastructureError, match="300 images do not fit into memory, try --batch-size 150"):
        fit(config, Wide(), SPLITS, CLASSES)


def test_missing_rows_in_training_are_reported_in_one_line() -> None:
    """An own network may leave out a row in training alone, which the check before it does not see."""

    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(144, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.layer(inputs.flatten(1))
            return logits[1:] if self.training else logits

    with pytest.raises(
        UserInputError,
        match=r"torch.float32 \(63, 4\) for 64 images, accepted: floats \(64, 4\)",
    ):
        fit(TrainConfig(batch_size=64, epochs=1), Short(), SPLITS, CLASSES)


@pytest.mark.parametrize("error", [ValueError("no such shape"), SystemExit("no such shape")])
@pytest.mark.parametrize("is_training", [True, False])
def test_custom_network_that_fails_is_reported_in_one_line(error: BaseException, is_training: bool) -> None:
    """The line has class, call and epoch; an error of our networks is a bug and stays as it is."""

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(144, CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training == is_training:
                raise error
            return self.layer(inputs.flatten(1))  # type: ignore[no-any-return]

    message = f"network: nets:Failing failed in training, epoch 1: {type(error).__name__}: no such shape"
    with pytest.raises(ConfigError) as raised:
        fit(TrainConfig(network="nets:Failing", epochs=1), Failing(), SPLITS, CLASSES)
    assert message == str(raised.value)
    with pytest.raises(type(error)):
        fit(TrainConfig(epochs=1), Failing(), SPLITS, CLASSES)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_batch_norm_needs_two_images_in_every_batch(network: str) -> None:
    """A last batch of one image is rejected before the training."""
    with pytest.raises(UserInputError, match="batch_size: got 499, which leaves one image of 500"):
        train(network=network, batch_norm=True, batch_size=499, epochs=1)


def test_micro_batches_are_off_by_default() -> None:
    """A network without `allow_micro_batches` receives complete batches."""

    class RecordBatchSizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.batch_sizes: list[int] = []
            self.layer = nn.Linear(144, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            self.batch_sizes.append(len(images))
            return self.layer(images.flatten(1))

    network = RecordBatchSizes()
    fit(TrainConfig(batch_size=400, epochs=1, threads=1), network, SPLITS, CLASSES)
    assert [400, 100, 100] == network.batch_sizes


def test_non_finite_weights_are_never_saved() -> None:
    """This holds also if the training is stopped before a loss reveals them."""

    class InfiniteGradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(144, CLASSES)
            self.steep = nn.Parameter(torch.zeros(CLASSES))

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1)) + self.steep.sqrt()  # infinitely steep at 0

    snapshots = list[TrainingSnapshot]()
    stop_answers = iter([False] + [True] * 10)
    with pytest.raises(
        UserInputError, match="weights: got NaN or infinity, epoch 1, batch 1, accepted: finite"
    ):
        fit(
            TrainConfig(threads=1),
            InfiniteGradient(),
            SPLITS,
            CLASSES,
            on_checkpoint=snapshots.append,
            should_stop=lambda: next(stop_answers),
        )
    assert 1 == len(snapshots)
