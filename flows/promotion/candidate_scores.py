"""What the gate is told of a classifier: all of it measured now, on the same images for both sides."""

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
class ClassifierScores:
    """One classifier before the gate.

    `evaluations` by set of images, `slices` (bool (n,), which images are right) by change of the
    reference; both empty where not all weights are finite, or the classes or the shape are others.
    `milliseconds` is the time for one image, `size` that of the weights in bytes.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    weights_are_finite: bool
    weight_bytes: int
    latency_ms: float = 0.0
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    correct_by_corruption: Mapping[str, np.ndarray] = field(default_factory=dict)


def score_classifier(
    classifier: Classifier, image_sets: Mapping[str, LabelledImages], classes: tuple[str, ...]
) -> ClassifierScores:
    """Score `classifier` on the sets of images; those named `reference` are changed, too.

    `classes` are those of the labels: a classifier that knows others, or another order, is not scored.
    """
    card = classifier.card
    weights = [value for value in classifier.network.state_dict().values() if value.is_floating_point()]
    weights_are_finite = all(bool(torch.isfinite(value).all()) for value in weights)
    weight_bytes = sum(value.nbytes for value in weights)
    shape = image_sets["reference"].images.shape[1:]
    if not weights_are_finite or (card.classes, card.shape) != (classes, shape):
        return ClassifierScores(card.classes, card.shape, weights_are_finite, weight_bytes)
    return ClassifierScores(
        card.classes,
        card.shape,
        weights_are_finite,
        weight_bytes,
        measure_latency_ms(classifier),
        {name: evaluate(classifier, images) for name, images in image_sets.items()},
        robustness.correct_by_corruption(
            classifier, robustness.make_corrupted_copies(image_sets["reference"], card.style)
        ),
    )


def measure_latency_ms(classifier: Classifier) -> float:
    """The least time that one image takes, on one thread as in a server.

    The least, since a busy machine makes an answer slower and never faster: beside a training the median of
    the same network was 0.06 ms or 6.7.
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
