"""Logistic regression with a penalty chosen by cross-validation, on features of images.

The problem is convex: the seed matters only for the folds. Each fit runs on one thread, so its last bits do
not depend on the number of cores: for 50 images two threads took 40 times as long as one, since they wait for
each other.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from relearn.model import devices
from relearn.model.errors import DataError

# Inverse strengths of the L2 penalty on standardized features, from strong to weak. The loss on other images
# falls and then rises along them, so the search ends when it has risen for `MAX_WORSE` of them.
INVERSE_PENALTIES = tuple(float(f"{value:.2g}") for value in np.logspace(-5, 1, 13))
MAX_WORSE = 2
FOLDS = 5
MAX_ITERATIONS = 1000
UNSEEN_PENALTY = 10.0  # logits that a class without images is below the others
# Limits of the temperature: a few images that are all correct would make any probability 1.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.5, 10.0

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the images that a fold learns from, and of those that it predicts, int64."""


class PenaltyRecord(NamedTuple):
    """Loss (nats) and accuracy (0–1) with one inverse penalty, on images that a fold has not learned from."""

    c: float
    loss: float
    accuracy: float


class Linear(NamedTuple):
    """Linear layer from features to logits: weight float32 (classes, features), bias float32 (classes,)."""

    weight: np.ndarray
    bias: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return logits (n, classes)."""
        logits: np.ndarray = features @ self.weight.T + self.bias
        return logits


@dataclass(frozen=True)
class CrossValidation:
    """Choice of the penalty: a record for each, the best `c`, and its logits for the images in `indices`."""

    records: tuple[PenaltyRecord, ...]
    c: float
    indices: np.ndarray
    logits: np.ndarray


def make_folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> list[Fold]:
    """Divide images into folds with about as many of each class; equal `groups` share a fold.

    Raises `DataError` if there are too few images.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    group_count = len(np.unique(groups))
    count = min(FOLDS, int(np.bincount(labels).max()), group_count)
    folds: list[Fold] = []
    if count > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
            splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed % 2**32)
            folds = list(splitter.split(labels, labels, groups))
    folds = [
        (learned, held_out)
        for learned, held_out in folds
        # Of a class whose images are one group a fold learns all or nothing.
        if len(np.unique(labels[learned])) > 1 and np.isin(labels[held_out], labels[learned]).any()
    ]
    if not folds:
        raise DataError(
            f"cross-validation: got {len(labels)} images for training and validation, at most"
            f" {np.bincount(labels).max()} of a class, in {group_count} groups, accepted: two or more of two"
            " classes, of two or more groups"
        )
    return folds


def cross_validate(
    features: np.ndarray, labels: np.ndarray, classes: int, folds: Sequence[Fold], is_balanced: bool = False
) -> CrossValidation:
    """Choose the penalty with the smallest loss on images that a fold has not learned from.

    Images of a class that their fold has not learned are left out. Each fit starts from the result of the
    stronger penalty before it, which saves half of the iterations.
    """
    models = [_build_model(is_balanced, warm_start=True) for _ in folds]
    scored = [held_out[np.isin(labels[held_out], labels[learned])] for learned, held_out in folds]

    def predict_fold(index: int, c: float) -> np.ndarray:
        learned, _ = folds[index]
        head = _fit(models[index], c, features[learned], labels[learned], classes)
        return head.predict(features[scored[index]])

    indices, records = np.concatenate(scored), list[PenaltyRecord]()
    best_loss, best_index, best_logits = math.inf, 0, np.empty((0, classes))
    for index, c in enumerate(INVERSE_PENALTIES):
        with _single_threaded_fits():
            logits = np.concatenate(devices.map_on_cores(partial(predict_fold, c=c), range(len(folds))))
        records.append(PenaltyRecord(c, *score_logits(logits, labels[indices])))
        if records[-1].loss < best_loss:
            best_loss, best_index, best_logits = records[-1].loss, index, logits
        elif index - best_index >= MAX_WORSE:
            break
    return CrossValidation(tuple(records), INVERSE_PENALTIES[best_index], indices, best_logits)


def fit_logistic(
    features: np.ndarray, labels: np.ndarray, classes: int, c: float, is_balanced: bool = False
) -> Linear:
    """Fit a linear layer to all images with inverse penalty `c`.

    If `is_balanced`, each class contributes the same to the loss, whatever its number of images.
    """
    with _single_threaded_fits():
        return _fit(_build_model(is_balanced), c, features, labels, classes)


def score_logits(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> tuple[float, float]:
    """Return the categorical cross-entropy in nats and the accuracy in 0–1."""
    from scipy.special import log_softmax

    losses = -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(1) == labels).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the number that the logits are divided by for the smallest loss; 1 if no other is better."""
    from scipy.optimize import minimize_scalar

    optimum = minimize_scalar(
        lambda log_temperature: score_logits(logits, labels, np.exp(log_temperature))[0],
        bounds=(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE)),
        method="bounded",
    )
    return float(np.exp(optimum.x)) if optimum.fun < score_logits(logits, labels)[0] else 1.0


@contextmanager
def _single_threaded_fits() -> Iterator[None]:
    """Run each fit on one thread, without a warning: one that has not converged has a stronger penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # its import sets a variable of the environment

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)  # few images of each
        yield


def _build_model(is_balanced: bool, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    class_weight = "balanced" if is_balanced else None
    return LogisticRegression(class_weight=class_weight, max_iter=MAX_ITERATIONS, warm_start=warm_start)


def _fit(model: Any, c: float, features: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Fit `model`, L-BFGS on standardized features, and return the layer for features as they are."""
    mean, deviation = features.mean(0, dtype=float), features.std(0, dtype=float)
    deviation[deviation == 0] = 1
    model.set_params(C=c).fit((features - mean) / deviation, labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: one logit, the difference of two
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / deviation
    bias = bias - weight @ mean
    layer = Linear(
        np.zeros((classes, features.shape[1]), np.float32),
        np.full(classes, bias.min() - UNSEEN_PENALTY, np.float32),
    )
    layer.weight[model.classes_], layer.bias[model.classes_] = weight, bias
    return layer
