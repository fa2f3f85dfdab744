"""Scores of candidate and champion for the gate, measured on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.class_change import ClassChange, RelabeledClassifier
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import take
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

    `reference` is None if weights are not finite, or the classes differ from those of the reference set.
    `latency_ms` is the time for one image.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    weights_are_finite: bool
    weight_bytes: int
    latency_ms: float = 0.0
    reference: ReferenceScores | None = None


def score_all(
    images: Mapping[Classifier, LabelledImages],
    candidate: Classifier,
    change: ClassChange,
    classes: tuple[str, ...],
    config: PromotionConfig,
) -> dict[Classifier, ClassifierScores]:
    """Score each classifier on its `images`, the same photos for all, of classes that both have.

    `change` is that from the champion to the candidate, `classes` are the classes of the labels.
    """
    scores = {}
    for classifier, own in images.items():
        is_shared, names = change.find_shared(own), None
        if change.needs_reference and classifier is not candidate:
            own_classes = classifier.card.classes
            names = ClassChange.between(candidate.card.classes, own_classes, config).champion
        shared = own if is_shared.all() else take(own, is_shared)
        scores[classifier] = score_classifier(classifier, shared, classes, names)
    return scores


def score_classifier(
    classifier: Classifier,
    reference: LabelledImages,
    classes: tuple[str, ...],
    names: tuple[str, ...] | None = None,
) -> ClassifierScores:
    """Score `classifier` on the images of the reference set, and on corrupted copies of them.

    `reference` are these images in the shape of the classifier. `classes` are the classes of the labels: a
    classifier with others, or another order, is not evaluated, unless `names` has the names of its classes
    among them.
    """
    card = classifier.card
    weights = [value for value in classifier.network.state_dict().values() if value.is_floating_point()]
    weights_are_finite = all(bool(torch.isfinite(value).all()) for value in weights)
    weight_bytes = sum(value.nbytes for value in weights)
    is_comparable = len(reference) and (names is not None or card.classes == classes)
    if not weights_are_finite or not is_comparable:
        return ClassifierScores(card.classes, card.shape, weights_are_finite, weight_bytes)
    scored = classifier if names is None else RelabeledClassifier(classifier, names, classes)
    copies = robustness.make_corrupted_copies(reference, card.style)
    return ClassifierScores(
        card.classes,
        card.shape,
        weights_are_finite,
        weight_bytes,
        measure_latency_ms(classifier),
        ReferenceScores(evaluate(scored, reference), robustness.per_image_correctness(scored, copies)),
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
