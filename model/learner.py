"""A training under way: what learns, by which rule, and how far it has come.

`Learner.state` is all that the rest of the training depends on; a learner that restores it goes on to the
same weights, bit for bit on a CPU with the same number of threads.
"""

import copy
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from relearn.model.config import TrainConfig
from relearn.model.errors import IntegrityError
from relearn.model.optimizers import optimizer, schedule


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


@dataclass
class Patience:
    """Remembers the best epoch, and says when waiting for a better one is over."""

    config: TrainConfig
    best: float = math.inf
    best_epoch: int = 0
    epoch: int = 0

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


@dataclass
class Pass:
    """What a pass over the images has added up: on the device of the network, so nothing waits for it."""

    loss: Tensor
    correct: Tensor
    images: int = 0
    batches: int = 0

    @classmethod
    def begin(cls, network: nn.Module) -> Self:
        device = next(network.parameters()).device
        return cls(torch.zeros((), device=device), torch.zeros((), device=device))

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Count the images of a slice; `loss` is the sum over them."""
        self.loss += loss.detach()
        self.correct += (logits.argmax(1) == targets.argmax(1)).sum()
        self.images += len(logits)

    @property
    def finite(self) -> bool:
        """A loss that was no number once stays in the sum. Waits for the device."""
        return math.isfinite(self.loss.item())

    def means(self) -> tuple[float, float]:
        """Loss in nats and accuracy in 0–1, over all images."""
        return self.loss.item() / self.images, self.correct.item() / self.images


@dataclass(frozen=True)
class State:
    """A learner between two batches: tensors by name, and values that JSON holds."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


@dataclass
class Learner:
    """One network on its way through the epochs of `config`, numbered from 1."""

    config: TrainConfig
    network: nn.Module
    rule: Optimizer
    rate: LRScheduler
    patience: Patience
    best_weights: dict[str, Tensor]
    under_way: Pass
    history: list[EpochRecord] = field(default_factory=list)
    seconds: float = 0.0
    """Spent in the epoch under way."""

    @classmethod
    def begin(cls, config: TrainConfig, network: nn.Module, steps: int) -> Self:
        """Before the first of `steps` weight updates."""
        rule = optimizer(config, network)
        torch.manual_seed(config.seed)  # dropout
        return cls(
            config,
            network,
            rule,
            schedule(config, rule, steps),
            Patience(config),
            copy.deepcopy(network.state_dict()),
            Pass.begin(network),
        )

    @property
    def epoch(self) -> int:
        """The epoch under way."""
        return len(self.history) + 1

    @property
    def finished(self) -> bool:
        return self.epoch > self.config.epochs or self.patience.exhausted

    @property
    def finite(self) -> bool:
        """Whether all weights are numbers. Waits for the device."""
        return all(bool(weight.isfinite().all()) for weight in self.network.parameters())

    @property
    def stop_reason(self) -> str:
        """Why a finished training is finished."""
        if self.patience.exhausted:
            return f"no better {self.config.monitor} for {self.config.patience} epochs"
        return "all epochs done"

    def update(self) -> None:
        """Move the weights along the gradients of a batch."""
        self.rule.step()
        self.rate.step()
        self.rule.zero_grad(set_to_none=True)

    def close_epoch(self, learned: Pass, looked: Pass) -> EpochRecord:
        """Keep what an epoch gave, and its weights where they are the best so far."""
        rate = float(self.rate.get_last_lr()[0])
        record = EpochRecord(self.epoch, *learned.means(), *looked.means(), rate, self.seconds)
        self.history.append(record)
        if self.patience.improved(record):
            self.best_weights = copy.deepcopy(self.network.state_dict())
        self.under_way, self.seconds = Pass.begin(self.network), 0.0
        return record

    def state(self) -> State:
        """What to `restore` later. References, not copies: good until the next batch."""
        rule, device = self.rule.state_dict(), self.under_way.loss.device
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        for index, kept in rule["state"].items():
            tensors |= {f"rule.{index}.{name}": value for name, value in kept.items() if value is not None}
        tensors |= {"pass.loss": self.under_way.loss, "pass.correct": self.under_way.correct}
        tensors |= {"random.cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors |= {"random.cuda": torch.cuda.get_rng_state(device)}
        values = {
            "threads": torch.get_num_threads(),
            "groups": rule["param_groups"],
            "rate": self.rate.state_dict(),
            "history": [asdict(record) for record in self.history],
            "pass": [self.under_way.images, self.under_way.batches],
            "seconds": self.seconds,
        }
        return State(tensors, values)

    def restore(self, state: State) -> None:
        """Stand where `state` was taken, by a learner of the same config, network and data.

        Raises `IntegrityError` where the network is another one.
        """
        try:
            self._restore(state.tensors, state.values)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the checkpoint is of another network: {error}") from None
        if not self.finite:
            raise IntegrityError("the checkpoint has weights that are no numbers")

    def _restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.network.load_state_dict(_below("network.", tensors))
        self.best_weights = {
            name: _as(value, tensors[f"best.{name}"]) for name, value in self.network.state_dict().items()
        }
        self.rule.load_state_dict({"state": self._kept(tensors), "param_groups": values["groups"]})
        self.rate.load_state_dict(values["rate"])
        self.history = [EpochRecord(**record) for record in values["history"]]
        for record in self.history:
            self.patience.improved(record)
        self.under_way.loss.copy_(tensors["pass.loss"])
        self.under_way.correct.copy_(tensors["pass.correct"])
        self.under_way.images, self.under_way.batches = values["pass"]
        self.seconds = values["seconds"]
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"], self.under_way.loss.device)

    def _kept(self, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """What the update rule remembers of each weight, in the memory layout of the weight."""
        kept: dict[int, dict[str, Tensor]] = {}
        weights = list(self.network.parameters())
        for name, value in _below("rule.", tensors).items():
            index, key = name.split(".", 1)
            weight = weights[int(index)]
            kept.setdefault(int(index), {})[key] = _as(weight, value) if value.ndim else value
        return kept


def _as(like: Tensor, value: Tensor) -> Tensor:
    """`value` with the memory layout and on the device of `like`, whose shape it must have."""
    if value.shape != like.shape:
        raise ValueError(f"got a tensor of {tuple(value.shape)}, accepted: {tuple(like.shape)}")
    return torch.empty_like(like).copy_(value)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
