"""Training of a pretrained network: its backbone computes features once, its head is fitted to them."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.data.splits import Splits, get_groups
from relearn.model.networks.efficientnet_lite import FEATURES
from relearn.model.networks.pretrained import Pretrained
from relearn.model.networks.pretrained_weights import WEIGHTS, load_backbone
from relearn.model.training import logistic
from relearn.model.training.features import FEATURES_FILE, compute_features
from relearn.model.training.logistic import CrossValidation, Fold, PenaltyRecord
from relearn.model.training.state import TrainingSnapshot

# With more images × classes only the validation images are held out: 20,000 images of 1,000 classes would
# take an hour in five folds.
MAX_FOLDED_LOGITS = 2_000_000


@dataclass(frozen=True)
class HeadResult:
    """Result of the training of a head, with the attributes of `FitResult` that do not speak of epochs.

    The head has learned from training and validation images. `val_loss` and the accuracies are those of the
    validation images, as for other networks, each predicted by a head that has not learned from it. `c` is
    the inverse penalty.
    """

    penalties: tuple[PenaltyRecord, ...]
    c: float
    temperature: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_balanced_accuracy: float
    folds: int
    seconds: float
    images_per_second: float
    threads: int
    device: str

    @classmethod
    def from_snapshot(cls, snapshot: TrainingSnapshot) -> Self | None:
        """Return the result in the snapshot of a finished training; None if it is not finished."""
        for values in snapshot.scalars["history"]:
            return cls(**{**values, "penalties": tuple(PenaltyRecord(*row) for row in values["penalties"])})
        return None

    @property
    def summary(self) -> str:
        """End of the training in a few words."""
        return f"C {self.c:g}, the best of {len(self.penalties)} in {self.folds} folds"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per penalty; the columns are the fields of `PenaltyRecord`."""
        return pd.DataFrame(self.penalties)


def fit_head(
    config: TrainConfig,
    network: Pretrained,
    splits: Splits,
    classes: int,
    folder: Path,
    initial_snapshot: TrainingSnapshot | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_checkpoint: Callable[[TrainingSnapshot], None] = lambda snapshot: None,
) -> HeadResult:
    """Load the backbone of `network`, and fit its head to the training and validation images.

    `folder` keeps the weights of backbones and the features of images, so an interrupted training continues
    with the images that are left; from `initial_snapshot` it reaches the same head, bit for bit on a CPU.
    `on_progress` is called with the numbers of images that have features and of all, `on_checkpoint` before
    the first image and after the last step.
    """
    device = devices.resolve_device(config.device)
    threads = devices.set_num_threads(
        initial_snapshot.scalars["threads"] if initial_snapshot else config.threads
    )
    load_backbone(network, config.network, folder)
    network.to(device).eval()
    if initial_snapshot and (finished := HeadResult.from_snapshot(initial_snapshot)):
        network.head.load_state_dict(initial_snapshot.tensors)
        return finished
    if not initial_snapshot:
        on_checkpoint(_to_snapshot(network, threads))  # an unwritable folder fails before any work
    start, parts = time.perf_counter(), (splits.train, splits.validation)
    total, features = sum(map(len, parts)), np.empty((0, FEATURES), np.float32)
    for part in parts:
        done = len(features)
        part_features = compute_features(
            network,
            WEIGHTS[config.network].converted_sha256,
            part.images,
            folder / FEATURES_FILE,
            lambda count, _, done=done: on_progress(done + count, total),  # type: ignore[misc]
        )
        features = np.concatenate([features, part_features])
    labels = np.concatenate([part.labels for part in parts])
    is_validation = np.repeat([False, True], [len(part) for part in parts])
    if total * classes > MAX_FOLDED_LOGITS:
        folds: list[Fold] = [(np.flatnonzero(~is_validation), np.flatnonzero(is_validation))]
    else:
        groups = np.concatenate([get_groups(part)[:, 0] for part in parts])
        folds = logistic.make_folds(labels, groups, config.seed)
    is_balanced = config.class_weights == "balanced"
    chosen = logistic.cross_validate(features, labels, classes, folds, is_balanced)
    head = logistic.fit_logistic(features, labels, classes, chosen.c, is_balanced)
    network.head.load_state_dict(
        {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
    )
    seconds = time.perf_counter() - start
    result = HeadResult(
        penalties=chosen.records,
        c=chosen.c,
        train_accuracy=logistic.score_logits(head.predict(features), labels)[1],
        folds=len(folds),
        seconds=seconds,
        images_per_second=total / seconds,
        threads=threads,
        device=str(device),
        **_score_validation(chosen, labels, is_validation),
    )
    on_checkpoint(_to_snapshot(network, threads, result))
    return result


def _score_validation(
    chosen: CrossValidation, labels: np.ndarray, is_validation: np.ndarray
) -> dict[str, float]:
    """Return temperature, loss and accuracies from logits of heads that have not learned from the image."""
    held_out_labels = labels[chosen.indices]
    temperature = logistic.fit_temperature(chosen.logits, held_out_labels)
    scored = is_validation[chosen.indices]
    scored |= not scored.any()  # of few images, no validation image may be left
    loss, accuracy = logistic.score_logits(chosen.logits[scored], held_out_labels[scored], temperature)
    is_correct = chosen.logits.argmax(1) == held_out_labels
    recalls = [
        is_correct[scored & (held_out_labels == label)].mean() for label in np.unique(held_out_labels[scored])
    ]
    return {
        "temperature": temperature,
        "val_loss": loss,
        "val_accuracy": accuracy,
        "val_balanced_accuracy": float(np.mean(recalls)),
    }


def _to_snapshot(network: Pretrained, threads: int, result: HeadResult | None = None) -> TrainingSnapshot:
    history: list[dict[str, Any]] = [asdict(result)] if result else []
    scalars = {"threads": threads, "history": history, "batch_count": 0}
    return TrainingSnapshot(dict(network.head.state_dict()), scalars)
