"""Scores of candidate and champion for the gate, measured on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch

from relearn.model.data.dataset import LabelledImages
from relearn.model.devices import set_num_threads
from relearn.model.evaluation import robustness
from relearn.model.evaluation.metrics import Evaluation, evaluate
from relearn.model.inference.classifier import Classifier

LATENCY_SAMPLES = 50  # single images


@dataclass(frozen=True, eq=False)
class ReferenceScores:
    """Predictions of one classifier for the reference images, and for corrupted copies of them.

    `correctness_by_corruption`, bool (n,), says for each corruption which images are predicted correctly.
    """

    evaluation: Evaluation
    correctness_by_corruption: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ClassifierScores:
    """Scores of one classifier.

    `reference` is None if weights are not finite, or classes or image shape differ from the reference set.
    `latency_ms` is the time for one image.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    weights_are_finite: bool
    weight_bytes: int
    latency_ms: float = 0.0
    reference: ReferenceScores | None = None


def score_classifier(
    classifier: Classifier, reference: LabelledImages, classes: tuple[str, ...]
) -> ClassifierScores:
    """Score `classifier` on the images of the reference set, and on corrupted copies of them.

    `classes` are the classes of the labels: a classifier with others, or another order, is not evaluated.
    """
    card = classifier.card
    weights = [value for value in classifier.network.state_dict().values() if value.is_floating_point()]
    weights_are_finite = all(bool(torch.isfinite(value).all()) for value in weights)
    weight_bytes = sum(value.nbytes for value in weights)
    if not weights_are_finite or (card.classes, card.shape) != (classes, reference.images.shape[1:]):
        return ClassifierScores(card.classes, card.shape, weights_are_finite, weight_bytes)
    return ClassifierScores(
        card.classes,
        card.shape,
        weights_are_finite,
        weight_bytes,
        measure_latency_ms(classifier),
        ReferenceScores(
            evaluate(classifier, reference),
            robustness.per_image_correctness(
                classifier, robustness.make_corrupted_copies(reference, card.style)
            ),
        ),
    )


def measure_latency_ms(classifier: Classifier) -> float:
    """Return the minimum time of a prediction of one image, on one thread as in a server.

    The minimum depends least on the load of the machine: beside a training, the median of the same network
    was 0.06 ms or 6.7 ms.
    """
    image = np.zeros((1, *classifier.card.shape), np.uint8)
    threads, latencies_ms = torch.get_num_threads(), []
    set_num_threads(1)
    try:
        for _ in range(LATENCY_SAMPLES):
            start = perf_counter()
            classifier.predict(image)
            latencies_ms.append(1000 * (perf_counter() - start))
    finally:
        set_num_threads(threads)
    return min(latencies_ms)
