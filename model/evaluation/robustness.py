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

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.transforms import apply_affine
from relearn.model.images.decode import ImageStyle

if TYPE_CHECKING:
    from relearn.model.inference.classifier import Classifier

Corruption = Callable[[np.ndarray], np.ndarray]

TRANSLATION = 2 / 28  # of the side
ROTATION_DEGREES = 15.0  # degrees
SCALE_FACTOR = 0.8  # of the size
NOISE_STD = 0.2  # standard deviation, of the range 0 to 255
MAX_IMAGES = 2_000  # images; eight slices of them take the cnn 1 s, and a share then is good to 1 point


def shift_rotate_scale(
    images: np.ndarray, shift: float = 0.0, rotation: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """uint8 (n, channels, height, width) shifted right and down by a share of the side, turned, scaled."""
    angle = math.radians(rotation)
    scaled_cos, scaled_sin = math.cos(angle) / scale, math.sin(angle) / scale
    affine_params = torch.tensor(
        [[scaled_cos, -scaled_sin, -2 * shift], [scaled_sin, scaled_cos, -2 * shift]]
    )
    transformed = apply_affine(torch.from_numpy(images), affine_params.expand(len(images), 2, 3))
    return transformed.round().clamp(0, 255).to(torch.uint8).numpy()


def add_noise(images: np.ndarray) -> np.ndarray:
    """With Gaussian noise, the same for the same images."""
    noise = np.random.default_rng(0).normal(0, 255 * NOISE_STD, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


COMMON_CORRUPTIONS: dict[str, Corruption] = {
    "shifted": lambda images: shift_rotate_scale(images, shift=TRANSLATION),
    "rotated_left": lambda images: shift_rotate_scale(images, rotation=ROTATION_DEGREES),
    "rotated_right": lambda images: shift_rotate_scale(images, rotation=-ROTATION_DEGREES),
    "smaller": lambda images: shift_rotate_scale(images, scale=SCALE_FACTOR),
    "noisy": add_noise,
}
MNIST_CORRUPTIONS: dict[str, Corruption] = {
    "inverted": lambda images: 255 - images,
    "thicker": lambda images: ndimage.grey_dilation(images, (1, 1, 2, 2)),
    "thinner": lambda images: ndimage.grey_erosion(images, (1, 1, 2, 2)),
}
CORRUPTIONS: dict[ImageStyle, dict[str, Corruption]] = {
    "photo": COMMON_CORRUPTIONS,
    "mnist": COMMON_CORRUPTIONS | MNIST_CORRUPTIONS,
}


def make_corrupted_copies(split: LabelledImages, style: ImageStyle) -> dict[str, LabelledImages]:
    """At most `MOST` images of `split`, evenly chosen, once for each change that fits the style."""
    indices = np.unique(np.linspace(0, len(split) - 1, MAX_IMAGES, dtype=int))
    images, labels = np.ascontiguousarray(split.images[indices]), split.labels[indices]
    return {
        name: LabelledImages(corruption(images), labels) for name, corruption in CORRUPTIONS[style].items()
    }


def correct_by_corruption(
    classifier: "Classifier", copies: dict[str, LabelledImages]
) -> dict[str, np.ndarray]:
    """For each slice which images the classifier has right, bool (n,)."""
    return {
        name: classifier.predict(split.images).argmax(1) == split.labels for name, split in copies.items()
    }
