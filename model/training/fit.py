"""Training loop; independent of tracking, flows and files."""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.splits import Splits
from relearn.model.devices import Forward
from relearn.model.errors import UserInputError
from relearn.model.networks.custom import errors_in_call, find_logits_fault
from relearn.model.training.batches import BatchLoader, MicroBatches
from relearn.model.training.state import EpochRecord, RunningMetrics, TrainingSnapshot, TrainingState

# Batches between two checks for a NaN or infinite loss. On a CPU a check takes 0.2 µs; a GPU must first
# finish all queued work.
NAN_CHECK_BATCHES_CPU, NAN_CHECK_BATCHES_GPU = 1, 50


@dataclass(frozen=True)
class FitResult:
    """Result of a training; the network itself has the weights of the best epoch.

    `is_completed` is false if `should_stop` ended the training. `images_per_second` is the number of
    training images divided by the time of training and validation.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    stop_reason: str
    is_completed: bool
    images_per_second: float
    threads: int
    device: str
    temperature: ClassVar[float] = 1.0

    @property
    def best_record(self) -> EpochRecord:
        """Record of the epoch whose weights the network has."""
        return self.history[self.best_epoch - 1]

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.history)

    @property
    def train_accuracy(self) -> float:
        return self.best_record.train_accuracy

    @property
    def val_loss(self) -> float:
        return self.best_record.val_loss

    @property
    def val_accuracy(self) -> float:
        return self.best_record.val_accuracy

    @property
    def val_balanced_accuracy(self) -> float:
        return self.best_record.val_balanced_accuracy

    @property
    def summary(self) -> str:
        """End of the training in a few words."""
        return f"best epoch {self.best_epoch} of {len(self.history)}: {self.stop_reason}"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per epoch; the columns are the fields of `EpochRecord`."""
        return pd.DataFrame(self.history)


def fit(
    config: TrainConfig,
    network: nn.Module,
    splits: Splits,
    classes: int,
    initial_snapshot: TrainingSnapshot | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_checkpoint: Callable[[TrainingSnapshot], None] = lambda snapshot: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train `network` in place, optionally from `initial_snapshot`; keep the weights of the best epoch.

    `on_epoch` is called after every epoch. `should_stop` is called between batches and ends the training.
    `on_checkpoint` is called before the first epoch, after every epoch, and when `should_stop` is true.
    Raises `UserInputError` for a NaN or infinite loss or weight, `InfrastructureError` if a batch does not
    fit into memory.
    """
    device = devices.resolve_device(config.device)
    threads = devices.set_num_threads(
        initial_snapshot.scalars["threads"] if initial_snapshot else config.threads
    )
    devices.tune_malloc()
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
    forward = devices.build_forward(config, network, device)
    train_loader = BatchLoader(splits.train, network, classes, config.batch_size, device, config.augmentation)
    val_loader = BatchLoader(splits.validation, network, classes, config.batch_size, device)
    _check_last_batch(train_loader, network)
    state = TrainingState.create(config, network, classes, len(train_loader) * config.epochs)
    training_loss = build_training_loss(config, splits.train.labels, classes, device)
    if initial_snapshot:
        state.load_state_dict(initial_snapshot)
    else:
        on_checkpoint(state.state_dict())  # an unwritable folder fails before any work

    is_stopped = False
    while not (state.is_finished or is_stopped):
        epoch_start = time.perf_counter() - state.epoch_seconds
        batches = train_loader.iterate_shuffled(config.seed, state.epoch, state.train_metrics.batch_count)
        with (
            errors_in_call(config.network, f"training, epoch {state.epoch}"),
            devices.translate_oom_error(train_loader.batch_size),
        ):
            network.train()
            train_metrics = run_epoch(
                forward, _stop_when(should_stop, batches), state.train_metrics, training_loss, state.step
            )
            network.eval()
            val_metrics = run_epoch(
                forward,
                _stop_when(should_stop, val_loader.iterate_in_order()),
                RunningMetrics.create(network, classes),
            )
        state.epoch_seconds = time.perf_counter() - epoch_start
        if not (train_metrics.has_finite_loss and val_metrics.has_finite_loss and state.has_finite_weights):
            raise _non_finite_error(config, state.epoch, train_metrics, val_metrics)
        is_stopped = should_stop()
        if not is_stopped:
            on_epoch(state.end_epoch(train_metrics, val_metrics))
        on_checkpoint(state.state_dict())

    network.load_state_dict(state.best_weights)
    history = tuple(state.history)
    seconds = sum(record.seconds for record in history)
    return FitResult(
        history=history,
        best_epoch=state.early_stopping.best_epoch,
        stop_reason="asked to stop" if is_stopped else state.stop_reason,
        is_completed=not is_stopped,
        images_per_second=len(splits.train) * len(history) / seconds if history else 0.0,
        threads=threads,
        device=str(device),
    )


def build_training_loss(
    config: TrainConfig, labels: np.ndarray, classes: int, device: torch.device
) -> Callable[..., torch.Tensor]:
    """Build the loss that a training minimizes, a function of logits and one-hot targets.

    `labels` are those of the training images, int64 (n,). Balanced class weights are
    n / (classes · images of the class), as in scikit-learn: each class contributes the same to the loss.
    """
    class_weights = None
    if config.class_weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        weights = len(labels) / (classes * np.maximum(counts, 1))
        class_weights = torch.tensor(weights, dtype=torch.float32, device=device)
    return partial(F.cross_entropy, weight=class_weights, label_smoothing=config.label_smoothing)


def run_epoch(
    forward: Forward,
    batches: Iterable[MicroBatches],
    metrics: RunningMetrics,
    loss_function: Callable[..., torch.Tensor] = F.cross_entropy,
    step: Callable[[], None] | None = None,
) -> RunningMetrics:
    """Run one epoch: training if `step` is given, else evaluation.

    Adds loss and correct predictions, on the augmented images, to `metrics` and returns it. Ends early,
    before `step`, if the loss is NaN or infinite.
    """
    check_interval = NAN_CHECK_BATCHES_CPU if metrics.loss.device.type == "cpu" else NAN_CHECK_BATCHES_GPU
    with torch.set_grad_enabled(step is not None):
        for batch in batches:
            batch_size = sum(len(inputs) for inputs, _ in batch)
            for inputs, targets in batch:
                logits = forward(inputs)
                if fault := find_logits_fault(logits, (len(targets), targets.shape[1])):
                    raise UserInputError(f"network: it {fault}, in training as in evaluation")
                loss = loss_function(logits, targets, reduction="sum")
                if step:
                    (loss / batch_size).backward()
                metrics.add(loss, logits, targets)
            metrics.batch_count += 1
            if metrics.batch_count % check_interval == 0 and not metrics.has_finite_loss:
                break
            if step:
                step()
    return metrics


def _stop_when(should_stop: Callable[[], bool], batches: Iterable[MicroBatches]) -> Iterable[MicroBatches]:
    return itertools.takewhile(lambda _: not should_stop(), batches)


def _check_last_batch(train_loader: BatchLoader, network: nn.Module) -> None:
    has_batch_norm = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    if has_batch_norm and train_loader.last_batch_size == 1:
        raise UserInputError(
            f"batch_size: got {train_loader.batch_size}, which leaves one image of"
            f" {len(train_loader.labels):,} for the last batch, accepted with batch norm: a size that leaves"
            " two or more"
        )


def _non_finite_error(
    config: TrainConfig, epoch: int, train_metrics: RunningMetrics, val_metrics: RunningMetrics
) -> UserInputError:
    metrics_by_split = {"training": train_metrics, "validation": val_metrics}
    loss_messages = (
        f"loss: got {metrics.loss.item()} in {split}, epoch {epoch}, batch {metrics.batch_count}"
        for split, metrics in metrics_by_split.items()
        if not metrics.has_finite_loss
    )
    # If the training was stopped, no loss of the last weights has been computed yet.
    problem = next(
        loss_messages, f"weights: got NaN or infinity, epoch {epoch}, batch {train_metrics.batch_count}"
    )
    return UserInputError(
        f"{problem}, accepted: finite numbers; try a learning rate below {config.learning_rate:g}",
        code="non_finite_loss",
    )
