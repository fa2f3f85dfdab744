"""Preprocessing for a network, the same in training, evaluation and serving; random affine augmentation.

Images have the shape of the dataset already: `relearn.model.images.resize` resizes them.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Largest change in either direction at strength 1: fraction of the side, degrees, fraction of the size.
MAX_TRANSLATION, MAX_ROTATION_DEGREES, MAX_SCALE_CHANGE = 0.08, 12.0, 0.12


def expects_flat_input(network: nn.Module) -> bool:
    """Return True for a network that takes flattened images."""
    return bool(getattr(network, "flat_input", False))


def view_as_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor on the memory of `array`, which is not written; torch warns of a read-only one."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def to_unit_float(images: Tensor, flat_input: bool = False) -> Tensor:
    """Scale uint8 (n, channels, height, width) to float32 in 0–1; (n, c·h·w) with `flat_input`."""
    scaled = images.float().div_(255)
    return scaled.flatten(1) if flat_input else scaled


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Encode int64 (n,), 0 ≤ label < classes, as float32 (n, classes) with a single 1 in each row."""
    return F.one_hot(labels, classes).float()


def preprocess(
    images: Tensor, labels: Tensor, classes: int, flat_input: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the inputs (`to_unit_float`) and the targets (`one_hot`) of a network."""
    return to_unit_float(images, flat_input), one_hot(labels, classes)


def sample_affine_params(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Sample a random matrix for each of `count` images, float32 (count, 2, 3) as `affine_grid` takes it."""
    shift_x, shift_y, rotation, scale = (2 * torch.rand(4, count, generator=generator) - 1) * strength
    angle, scale_factor = rotation * math.radians(MAX_ROTATION_DEGREES), 1 + scale * MAX_SCALE_CHANGE
    scaled_cos, scaled_sin = angle.cos() / scale_factor, angle.sin() / scale_factor
    # Coordinates go from -1 to 1, so a fraction of the side counts double.
    rows = [
        torch.stack([scaled_cos, -scaled_sin, 2 * MAX_TRANSLATION * shift_x], 1),
        torch.stack([scaled_sin, scaled_cos, 2 * MAX_TRANSLATION * shift_y], 1),
    ]
    return torch.stack(rows, 1)


def apply_affine(images: Tensor, affine_params: Tensor) -> Tensor:
    """Transform uint8 (n, channels, height, width) to float32 in 0–255; pixels from outside are black."""
    height, width = images.shape[2:]
    # Both sides go from -1 to 1: without this a rotation would shear images that are not square.
    aspect_ratios = affine_params.new_tensor([[1, height / width, 1], [width / height, 1, 1]])
    grid = F.affine_grid(affine_params * aspect_ratios, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)
