"""The training loop, written out once; it knows no tracker, no flow and no file."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import devices
from model.batches import Batches, Slices
from model.config import TrainConfig
from model.errors import InputError
from model.optimizers import optimizer, schedule
from model.splits import Splits


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave: losses in nats an image, accuracies in 0–1, the learning rate at its end."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Fit:
    """What a training gave; the network itself carries the weights of the best epoch."""

    history: tuple[EpochRecord, ...]
    best_epoch: int
    stop_reason: str
    images_per_second: float
    threads: int
    device: str

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.history)

    def table(self) -> pd.DataFrame:
        """One row an epoch, columns as the fields of `EpochRecord`."""
        return pd.DataFrame(self.history)


@dataclass
class Patience:
    """Remembers the best epoch, and says when waiting for a better one is over."""

    config: TrainConfig
    best: float = math.inf
    best_epoch: int = 0
    epoch: int = field(default=0)

    def improved(self, record: EpochRecord) -> bool:
        """Take note of an epoch; true when it is the best so far."""
        self.epoch = record.epoch
        value = record.val_loss if self.config.monitor == "val_loss" else -record.val_accuracy
        better = value < self.best - (self.config.min_delta if self.best_epoch else 0)
        if better:
            self.best, self.best_epoch = value, record.epoch
        return better

    @property
    def exhausted(self) -> bool:
        return self.config.early_stopping and self.epoch - self.best_epoch >= self.config.patience


def fit(
    config: TrainConfig,
    network: nn.Module,
    splits: Splits,
    classes: int,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fit:
    """Train `network` in place; it ends with the weights of its best epoch.

    `on_epoch` hears of every finished epoch; `should_stop` is asked between batches. Raises `InputError`
    when the loss is no longer a number.
    """
    device, threads = devices.resolve(config.device), devices.use_threads(config.threads)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
    training = Batches(splits.train, network, classes, config.batch_size, device)
    validation = Batches(splits.validation, network, classes, max(config.batch_size, 1024), device)
    rule = optimizer(config, network)
    rate = schedule(config, rule, len(training) * config.epochs)

    def update() -> None:
        rule.step()
        rate.step()
        rule.zero_grad(set_to_none=True)

    torch.manual_seed(config.seed)  # dropout
    patience, best_weights = Patience(config), copy.deepcopy(network.state_dict())
    history: list[EpochRecord] = []
    learning_seconds, stop_reason = 0.0, "all epochs done"
    for epoch in range(1, config.epochs + 1):
        start = time.perf_counter()
        batches = itertools.takewhile(lambda _: not should_stop(), training.shuffled(config.seed, epoch))
        train_loss, train_accuracy = run_epoch(network, batches, update)
        learning_seconds += time.perf_counter() - start
        if should_stop():
            stop_reason = "asked to stop"
            break
        val_loss, val_accuracy = run_epoch(network, validation.in_order())
        if not math.isfinite(train_loss + val_loss):
            raise InputError(
                f"loss: got {train_loss} in training, {val_loss} in validation of epoch {epoch}, "
                f"accepted: finite numbers; try a learning rate below {config.learning_rate:g}",
                code="non_finite_loss",
            )
        record = EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(rate.get_last_lr()[0]),
            seconds=time.perf_counter() - start,
        )
        history.append(record)
        on_epoch(record)
        if patience.improved(record):
            best_weights = copy.deepcopy(network.state_dict())
        if patience.exhausted:
            stop_reason = f"no better {config.monitor} for {config.patience} epochs"
            break
    network.load_state_dict(best_weights)
    return Fit(
        history=tuple(history),
        best_epoch=patience.best_epoch,
        stop_reason=stop_reason,
        images_per_second=len(splits.train) * len(history) / learning_seconds if history else 0.0,
        threads=threads,
        device=str(device),
    )


def run_epoch(
    network: nn.Module, batches: Iterable[Slices], update: Callable[[], None] | None = None
) -> tuple[float, float]:
    """Go through `batches` once; with `update` the network learns from each, without it only looks.

    Returns the mean categorical cross-entropy in nats and the accuracy in 0–1, both over all images as
    the network saw them.
    """
    network.train(update is not None)
    device = next(network.parameters()).device
    loss_sum, correct, seen = torch.zeros((), device=device), torch.zeros((), device=device), 0
    with torch.set_grad_enabled(update is not None):
        for batch in batches:
            size = sum(len(inputs) for inputs, _ in batch)
            for inputs, targets in batch:
                logits = network(inputs)
                loss = F.cross_entropy(logits, targets, reduction="sum")
                if update:
                    (loss / size).backward()
                loss_sum += loss.detach()
                correct += _correct(logits, targets)
            if update:
                update()
            seen += size
    if not seen:
        return math.nan, math.nan
    return loss_sum.item() / seen, correct.item() / seen


def _correct(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets.argmax(1)).sum()
