"""State of a running training: network, optimizer, early stopping, metrics and history.

`TrainingState.state_dict` contains everything the rest of the training depends on: after
`load_state_dict` it reaches the same weights, bit for bit on a CPU with the same number of threads.
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
from relearn.model.errors import CorruptDataError
from relearn.model.training.optimizers import build_lr_scheduler, build_optimizer


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch: losses in nats per image, accuracies in 0–1, learning rate at its end.

    `train_loss` is what the training minimizes, with label smoothing and class weights; `val_loss` is the
    plain cross-entropy.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    learning_rate: float
    seconds: float


@dataclass
class EarlyStopping:
    """Early stopping: tracks the best epoch, and decides when the training stops."""

    config: TrainConfig
    best_value: float = math.inf
    best_epoch: int = 0
    epoch: int = 0

    def update(self, record: EpochRecord) -> bool:
        """Record an epoch; return true if it is the best so far."""
        self.epoch = record.epoch
        monitored: float = getattr(record, self.config.selection_metric)
        value = monitored if self.config.selection_metric == "val_loss" else -monitored
        is_improvement = value < self.best_value - (self.config.min_delta if self.best_epoch else 0)
        if is_improvement:
            self.best_value, self.best_epoch = value, record.epoch
        return is_improvement

    @property
    def should_stop(self) -> bool:
        return self.config.early_stopping and self.epoch - self.best_epoch >= self.config.patience


@dataclass
class RunningMetrics:
    """Running sums over an epoch: loss, correct predictions and images of each class, float32 (classes,).

    They stay on the device of the network, so that no step synchronizes with it.
    """

    loss: Tensor
    correct_counts: Tensor
    image_counts: Tensor
    batch_count: int = 0

    @classmethod
    def create(cls, network: nn.Module, classes: int) -> Self:
        device = next(network.parameters()).device
        per_class = torch.zeros(classes, device=device)
        return cls(torch.zeros((), device=device), per_class, per_class.clone())

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add the images of a micro-batch, with one-hot `targets`; `loss` is the sum over them."""
        self.loss += loss.detach()
        self.correct_counts += (logits.argmax(1) == targets.argmax(1)).to(targets.dtype) @ targets
        self.image_counts += targets.sum(0)

    @property
    def has_finite_loss(self) -> bool:
        """True if every loss so far was finite, judged from the running sum, which stays NaN or infinite.

        Synchronizes with the GPU.
        """
        return math.isfinite(self.loss.item())

    @property
    def mean_loss(self) -> float:
        """Loss in nats, averaged over all images."""
        return self.loss.item() / self.image_counts.sum().item()

    @property
    def accuracy(self) -> float:
        """Fraction of the images that are predicted correctly."""
        return (self.correct_counts.sum() / self.image_counts.sum()).item()

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes of the fraction of their images that is predicted correctly."""
        has_images = self.image_counts > 0
        return (self.correct_counts[has_images] / self.image_counts[has_images]).mean().item()


@dataclass(frozen=True)
class TrainingSnapshot:
    """Training state between two batches: tensors by name, and JSON values."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


@dataclass
class TrainingState:
    """Training of one network over the epochs of `config`, numbered from 1."""

    config: TrainConfig
    network: nn.Module
    optimizer: Optimizer
    lr_scheduler: LRScheduler
    early_stopping: EarlyStopping
    best_weights: dict[str, Tensor]
    train_metrics: RunningMetrics
    history: list[EpochRecord] = field(default_factory=list)
    epoch_seconds: float = 0.0
    """Seconds spent in the current epoch."""

    @classmethod
    def create(cls, config: TrainConfig, network: nn.Module, classes: int, steps: int) -> Self:
        """Return the initial state of a training of `steps` optimizer steps."""
        optimizer = build_optimizer(config, network)
        torch.manual_seed(config.seed)  # dropout
        return cls(
            config,
            network,
            optimizer,
            build_lr_scheduler(config, optimizer, steps),
            EarlyStopping(config),
            copy.deepcopy(network.state_dict()),
            RunningMetrics.create(network, classes),
        )

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return len(self.history) + 1

    @property
    def is_finished(self) -> bool:
        return self.epoch > self.config.epochs or self.early_stopping.should_stop

    @property
    def has_finite_weights(self) -> bool:
        """Return whether every weight is finite. Synchronizes with the GPU."""
        return all(bool(weight.isfinite().all()) for weight in self.network.parameters())

    @property
    def stop_reason(self) -> str:
        """Reason for the end of a training that has ended."""
        if self.early_stopping.should_stop:
            return f"no better {self.config.selection_metric} for {self.config.patience} epochs"
        return "all epochs done"

    def step(self) -> None:
        """Update weights and learning rate after the backward pass of a batch, and clear the gradients."""
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def end_epoch(self, train_metrics: RunningMetrics, val_metrics: RunningMetrics) -> EpochRecord:
        """Record the results of an epoch, and keep its weights if they are the best so far."""
        learning_rate = float(self.lr_scheduler.get_last_lr()[0])
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=train_metrics.mean_loss,
            train_accuracy=train_metrics.accuracy,
            val_loss=val_metrics.mean_loss,
            val_accuracy=val_metrics.accuracy,
            val_balanced_accuracy=val_metrics.balanced_accuracy,
            learning_rate=learning_rate,
            seconds=self.epoch_seconds,
        )
        self.history.append(record)
        if self.early_stopping.update(record):
            self.best_weights = copy.deepcopy(self.network.state_dict())
        self.train_metrics = RunningMetrics.create(self.network, len(train_metrics.image_counts))
        self.epoch_seconds = 0.0
        return record

    def state_dict(self) -> TrainingSnapshot:
        """Return a snapshot for `load_state_dict`; its tensors are references, valid until the next batch."""
        optimizer_state, device = self.optimizer.state_dict(), self.train_metrics.loss.device
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best_network.{name}": value for name, value in self.best_weights.items()}
        for index, weight_state in optimizer_state["state"].items():
            tensors |= {
                f"optimizer.{index}.{name}": value
                for name, value in weight_state.items()
                if value is not None
            }
        tensors |= {
            "metrics.loss": self.train_metrics.loss,
            "metrics.correct": self.train_metrics.correct_counts,
            "metrics.images": self.train_metrics.image_counts,
        }
        tensors |= {"random.cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors |= {"random.cuda": torch.cuda.get_rng_state(device)}
        scalars = {
            "threads": torch.get_num_threads(),
            "param_groups": optimizer_state["param_groups"],
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "history": [asdict(record) for record in self.history],
            "batch_count": self.train_metrics.batch_count,
            "seconds": self.epoch_seconds,
        }
        return TrainingSnapshot(tensors, scalars)

    def load_state_dict(self, snapshot: TrainingSnapshot) -> None:
        """Restore a snapshot of a training with the same config, network and data.

        Raises `CorruptDataError` if the snapshot does not fit the network, or has NaN or infinite weights.
        """
        try:
            self._load(snapshot.tensors, snapshot.scalars)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise CorruptDataError(f"the checkpoint does not fit the network: {error}") from None
        if not self.has_finite_weights:
            raise CorruptDataError("the checkpoint has NaN or infinite weights")

    def _load(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        self.network.load_state_dict(_strip_prefix("network.", tensors))
        self.best_weights = {
            name: _copy_like(value, tensors[f"best_network.{name}"])
            for name, value in self.network.state_dict().items()
        }
        self.optimizer.load_state_dict(
            {"state": self._optimizer_state(tensors), "param_groups": scalars["param_groups"]}
        )
        self.lr_scheduler.load_state_dict(scalars["lr_scheduler"])
        self.history = [EpochRecord(**record) for record in scalars["history"]]
        for record in self.history:
            self.early_stopping.update(record)
        self.train_metrics.loss.copy_(tensors["metrics.loss"])
        self.train_metrics.correct_counts.copy_(tensors["metrics.correct"])
        self.train_metrics.image_counts.copy_(tensors["metrics.images"])
        self.train_metrics.batch_count = scalars["batch_count"]
        self.epoch_seconds = scalars["seconds"]
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"], self.train_metrics.loss.device)

    def _optimizer_state(self, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Return the optimizer state of each weight, in the memory layout of the weight."""
        states: dict[int, dict[str, Tensor]] = {}
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in _strip_prefix("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            weight = weights[int(index)]
            states.setdefault(int(index), {})[key] = _copy_like(weight, value) if value.ndim else value
        return states


def _copy_like(like: Tensor, value: Tensor) -> Tensor:
    """Copy `value` to the memory layout and device of `like`; raise `ValueError` for another shape."""
    if value.shape != like.shape:
        raise ValueError(f"got a tensor of {tuple(value.shape)}, accepted: {tuple(like.shape)}")
    return torch.empty_like(like).copy_(value)


def _strip_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
