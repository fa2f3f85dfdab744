"""The training loop, written out once; it knows no tracker, no flow and no file."""

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from relearn.model import devices
from relearn.model.batches import Batches, Slices
from relearn.model.config import TrainConfig
from relearn.model.devices import Forward
from relearn.model.errors import InputError
from relearn.model.learner import EpochRecord, Learner, Pass, State
from relearn.model.splits import Splits

# Batches between two looks at whether the loss is still a number. On a CPU a look costs 0.2 µs; a
# GPU would have to finish all it was given before it can answer.
LOOK_ON_CPU, LOOK_ELSEWHERE = 1, 50


@dataclass(frozen=True)
class Fit:
    """What a training gave; the network itself carries the weights of the best epoch.

    `finished` is false where it was asked to stop; `images_per_second` counts images learned from, over
    the whole time, validation included.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    stop_reason: str
    finished: bool
    images_per_second: float
    threads: int
    device: str

    @property
    def seconds(self) -> float:
        return sum(record.seconds for record in self.history)

    def table(self) -> pd.DataFrame:
        """One row an epoch, columns as the fields of `EpochRecord`."""
        return pd.DataFrame(self.history)


def fit(
    config: TrainConfig,
    network: nn.Module,
    splits: Splits,
    classes: int,
    start: State | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    save: Callable[[State], None] = lambda state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fit:
    """Train `network` in place, from `start` where it is given; it ends with the weights of its best epoch.

    `on_epoch` hears of every finished epoch; `save` then gets the state to start from later, and once
    more when `should_stop`, which is asked between batches, ends the training early. Raises `InputError`
    when the loss is no longer a number, `MachineError` when a batch does not fit into memory.
    """
    device = devices.resolve(config.device)
    threads = devices.use_threads(start.values["threads"] if start else config.threads)
    devices.reuse_memory()
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
    forward = devices.build_forward(config, network, device)
    training = Batches(splits.train, network, classes, config.batch_size, device, config.augmentation)
    validation = Batches(splits.validation, network, classes, config.batch_size, device)
    _check_smallest(training, network)
    learner = Learner.begin(config, network, len(training) * config.epochs)
    if start:
        learner.restore(start)
    else:
        save(learner.state())  # what cannot be kept is heard of before any work

    stopped = False
    while not (learner.finished or stopped):
        begin = time.perf_counter() - learner.seconds
        batches = training.shuffled(config.seed, learner.epoch, learner.under_way.batches)
        with devices.memory_for(training.batch_size):
            network.train()
            learned = run_epoch(forward, _until(should_stop, batches), learner.under_way, learner.update)
            network.eval()
            looked = run_epoch(forward, _until(should_stop, validation.in_order()), Pass.begin(network))
        learner.seconds = time.perf_counter() - begin
        if not (learned.finite and looked.finite and learner.finite):
            raise _not_finite(config, learner.epoch, learned, looked)
        stopped = should_stop()
        if not stopped:
            on_epoch(learner.close_epoch(learned, looked))
        save(learner.state())

    network.load_state_dict(learner.best_weights)
    history = tuple(learner.history)
    seconds = sum(record.seconds for record in history)
    return Fit(
        history=history,
        best_epoch=learner.patience.best_epoch,
        stop_reason="asked to stop" if stopped else learner.stop_reason,
        finished=not stopped,
        images_per_second=len(splits.train) * len(history) / seconds if history else 0.0,
        threads=threads,
        device=str(device),
    )


def run_epoch(
    forward: Forward, batches: Iterable[Slices], total: Pass, update: Callable[[], None] | None = None
) -> Pass:
    """Go through `batches` once; with `update` the weights learn from each, without it they are only used.

    Adds categorical cross-entropy and right answers, as the images were seen, to `total`, and
    returns it; ends early, before the weights are touched, where the loss is no longer a number.
    """
    look = LOOK_ON_CPU if total.loss.device.type == "cpu" else LOOK_ELSEWHERE
    with torch.set_grad_enabled(update is not None):
        for batch in batches:
            size = sum(len(inputs) for inputs, _ in batch)
            for inputs, targets in batch:
                logits = forward(inputs)
                loss = F.cross_entropy(logits, targets, reduction="sum")
                if update:
                    (loss / size).backward()
                total.add(loss, logits, targets)
            total.batches += 1
            if total.batches % look == 0 and not total.finite:
                break
            if update:
                update()
    return total


def _until(should_stop: Callable[[], bool], batches: Iterable[Slices]) -> Iterable[Slices]:
    return itertools.takewhile(lambda _: not should_stop(), batches)


def _check_smallest(training: Batches, network: nn.Module) -> None:
    normalises = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    if normalises and training.smallest == 1:
        raise InputError(
            f"batch_size: got {training.batch_size}, which leaves one image of {len(training.labels):,} for "
            "the last batch, accepted with batch norm: any that leaves two or more"
        )


def _not_finite(config: TrainConfig, epoch: int, learned: Pass, looked: Pass) -> InputError:
    passes = {"training": learned, "validation": looked}
    losses = (
        f"loss: got {found.loss.item()} in {part}, epoch {epoch}, batch {found.batches}"
        for part, found in passes.items()
        if not found.finite
    )
    # A stop comes before any loss of the last weights.
    got = next(losses, f"weights: got some that are not, epoch {epoch}, batch {learned.batches}")
    return InputError(
        f"{got}, accepted: finite numbers; try a learning rate below {config.learning_rate:g}",
        code="non_finite_loss",
    )
