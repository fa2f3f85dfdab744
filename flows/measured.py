"""What the gate is told of a classifier: all of it measured now, on the same images for both sides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch

from relearn.model import robustness
from relearn.model.classifier import Classifier
from relearn.model.datasets import LabelledImages
from relearn.model.devices import use_threads
from relearn.model.metrics import Evaluation, evaluate

TIMED = 50  # single images


@dataclass(frozen=True, eq=False)
class Measured:
    """One classifier before the gate.

    `evaluations` by set of images, `slices` (bool (n,), which images are right) by change of the
    reference; both empty where not all weights are finite, or the classes or the shape are others.
    `milliseconds` is the time for one image, `size` that of the weights in bytes.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    finite: bool
    size: int
    milliseconds: float = 0.0
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)


def measure(classifier: Classifier, sets: Mapping[str, LabelledImages], classes: tuple[str, ...]) -> Measured:
    """Score `classifier` on the sets of images; those named `reference` are changed, too.

    `classes` are those of the labels: a classifier that knows others, or another order, is not scored.
    """
    card = classifier.card
    state = [value for value in classifier.network.state_dict().values() if value.is_floating_point()]
    finite = all(bool(torch.isfinite(value).all()) for value in state)
    size = sum(value.nbytes for value in state)
    shape = sets["reference"].images.shape[1:]
    if not finite or (card.classes, card.shape) != (classes, shape):
        return Measured(card.classes, card.shape, finite, size)
    return Measured(
        card.classes,
        card.shape,
        finite,
        size,
        milliseconds(classifier),
        {name: evaluate(classifier, images) for name, images in sets.items()},
        robustness.right(classifier, robustness.varied(sets["reference"], card.style)),
    )


def milliseconds(classifier: Classifier) -> float:
    """The least time that one image takes, on one thread as in a server.

    The least, since a busy machine makes an answer slower and never faster: beside a training the median of
    the same network was 0.06 ms or 6.7.
    """
    image = np.zeros((1, *classifier.card.shape), np.uint8)
    threads, times = torch.get_num_threads(), []
    use_threads(1)
    try:
        for _ in range(TIMED):
            start = perf_counter()
            classifier.predict(image)
            times.append(1000 * (perf_counter() - start))
    finally:
        use_threads(threads)
    return min(times)
