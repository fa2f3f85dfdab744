"""Varied data: the same images shifted, turned, scaled, noisy, inverted, with other pens.

Each change is one that a reader would hardly notice; what a classifier loses by it is what it has learned
about the data set rather than about its classes.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from relearn.model.augmentation import change
from relearn.model.datasets import LabelledImages, Style

if TYPE_CHECKING:
    from relearn.model.classifier import Classifier

Change = Callable[[np.ndarray], np.ndarray]

SHIFT = 2 / 28  # of the side
TURN = 15.0  # degrees
SIZE = 0.8  # of the size
NOISE = 0.2  # standard deviation, of the range 0 to 255
MOST = 2_000  # images; eight slices of them take the cnn 1 s, and a share then is good to 1 point


def moved(images: np.ndarray, shift: float = 0.0, turn: float = 0.0, size: float = 1.0) -> np.ndarray:
    """uint8 (n, channels, height, width) shifted right and down by a share of the side, turned, scaled."""
    angle = math.radians(turn)
    across, along = math.cos(angle) / size, math.sin(angle) / size
    source = torch.tensor([[across, -along, -2 * shift], [along, across, -2 * shift]])
    changed = change(torch.from_numpy(images), source.expand(len(images), 2, 3))
    return changed.round().clamp(0, 255).to(torch.uint8).numpy()


def noisy(images: np.ndarray) -> np.ndarray:
    """With Gaussian noise, the same for the same images."""
    noise = np.random.default_rng(0).normal(0, 255 * NOISE, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


ANY: dict[str, Change] = {
    "shifted": lambda images: moved(images, shift=SHIFT),
    "turned_left": lambda images: moved(images, turn=TURN),
    "turned_right": lambda images: moved(images, turn=-TURN),
    "smaller": lambda images: moved(images, size=SIZE),
    "noisy": noisy,
}
STROKES: dict[str, Change] = {
    "inverted": lambda images: 255 - images,
    "thicker": lambda images: ndimage.grey_dilation(images, (1, 1, 2, 2)),
    "thinner": lambda images: ndimage.grey_erosion(images, (1, 1, 2, 2)),
}
SLICES: dict[Style, dict[str, Change]] = {"plain": ANY, "strokes": ANY | STROKES}


def varied(split: LabelledImages, style: Style) -> dict[str, LabelledImages]:
    """At most `MOST` images of `split`, evenly chosen, once for each change that fits the style."""
    chosen = np.unique(np.linspace(0, len(split) - 1, MOST, dtype=int))
    images, labels = np.ascontiguousarray(split.images[chosen]), split.labels[chosen]
    return {name: LabelledImages(one(images), labels) for name, one in SLICES[style].items()}


def right(classifier: "Classifier", slices: dict[str, LabelledImages]) -> dict[str, np.ndarray]:
    """For each slice which images the classifier has right, bool (n,)."""
    return {
        name: classifier.predict(slice_.images).argmax(1) == slice_.labels for name, slice_ in slices.items()
    }
