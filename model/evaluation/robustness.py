"""Corrupted copies of images: shifted, rotated, scaled, noisy, inverted, with thicker or thinner strokes.

These corruptions hardly affect a human reader. The accuracy that a classifier loses shows how much it
depends on properties of the dataset instead of its classes.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.transforms import apply_affine, view_as_tensor
from relearn.model.images.resize import ImageStyle

if TYPE_CHECKING:
    from relearn.model.inference.classifier import Classifier

Corruption = Callable[[np.ndarray], np.ndarray]

TRANSLATION = 2 / 28  # fraction of the side
ROTATION_DEGREES = 15.0
SCALE_FACTOR = 0.8
NOISE_STD = 0.2  # fraction of the range 0 to 255
MAX_IMAGES = 2_000  # eight corruptions take the cnn 1 s, and an accuracy is precise to about 1 point


def shift_rotate_scale(
    images: np.ndarray, shift: float = 0.0, rotation: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    """Shift, rotate and scale images, uint8 (n, channels, height, width).

    `shift` is a fraction of the side, to the right and down; `rotation` is in degrees, counterclockwise.
    """
    angle = math.radians(rotation)
    scaled_cos, scaled_sin = math.cos(angle) / scale, math.sin(angle) / scale
    affine_params = torch.tensor(
        [[scaled_cos, -scaled_sin, -2 * shift], [scaled_sin, scaled_cos, -2 * shift]]
    )
    transformed = apply_affine(view_as_tensor(images), affine_params.expand(len(images), 2, 3))
    return transformed.round().clamp(0, 255).to(torch.uint8).numpy()


def add_noise(images: np.ndarray) -> np.ndarray:
    """Add Gaussian noise from a fixed seed: images of one shape always get the same noise."""
    noise = np.random.default_rng(0).normal(0, 255 * NOISE_STD, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def thicken(images: np.ndarray) -> np.ndarray:
    """Thicken bright strokes by one pixel, to the left and up; uint8 (n, channels, height, width)."""
    padded = F.pad(view_as_tensor(images).float(), (0, 1, 0, 1), mode="replicate")
    return F.max_pool2d(padded, 2, stride=1).to(torch.uint8).numpy()


COMMON_CORRUPTIONS: dict[str, Corruption] = {
    "shifted": lambda images: shift_rotate_scale(images, shift=TRANSLATION),
    "rotated_left": lambda images: shift_rotate_scale(images, rotation=ROTATION_DEGREES),
    "rotated_right": lambda images: shift_rotate_scale(images, rotation=-ROTATION_DEGREES),
    "smaller": lambda images: shift_rotate_scale(images, scale=SCALE_FACTOR),
    "noisy": add_noise,
}
DRAWING_CORRUPTIONS: dict[str, Corruption] = {
    "inverted": lambda images: 255 - images,
    "thicker": thicken,
    "thinner": lambda images: 255 - thicken(255 - images),
}
CORRUPTIONS: dict[ImageStyle, dict[str, Corruption]] = {
    "photo": COMMON_CORRUPTIONS,
    "mnist": COMMON_CORRUPTIONS | DRAWING_CORRUPTIONS,
    "drawing": COMMON_CORRUPTIONS | DRAWING_CORRUPTIONS,
}


def make_corrupted_copies(split: LabelledImages, style: ImageStyle) -> dict[str, LabelledImages]:
    """Corrupt the images of `split` that `choose_images` chooses, once per corruption of the style."""
    indices = choose_images(len(split))
    images, labels = np.ascontiguousarray(split.images[indices]), split.labels[indices]
    return {
        name: LabelledImages(corruption(images), labels) for name, corruption in CORRUPTIONS[style].items()
    }


def choose_images(count: int) -> np.ndarray:
    """Choose at most `MAX_IMAGES` evenly spaced ones of `count` images, as indices."""
    return np.unique(np.linspace(0, count - 1, MAX_IMAGES, dtype=int))


def per_image_correctness(
    classifier: "Classifier", copies: dict[str, LabelledImages]
) -> dict[str, np.ndarray]:
    """Return for each corruption a mask of the correctly predicted images, bool (n,)."""
    return {
        name: classifier.predict(split.images).argmax(1) == split.labels for name, split in copies.items()
    }
