"""Small random changes of training images: shifted, turned, scaled; what they show stays what it is."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# The most that is done at strength 1, either way: a share of the side, degrees, a share of the size.
MAX_TRANSLATION, MAX_ROTATION_DEGREES, MAX_SCALE_CHANGE = 0.08, 12.0, 0.12


def sample_affine_params(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Where the pixels of each of `count` images come from, float32 (count, 2, 3) as `affine_grid` has it."""
    shift_x, shift_y, rotation, scale = (2 * torch.rand(4, count, generator=generator) - 1) * strength
    angle, scale_factor = rotation * math.radians(MAX_ROTATION_DEGREES), 1 + scale * MAX_SCALE_CHANGE
    scaled_cos, scaled_sin = angle.cos() / scale_factor, angle.sin() / scale_factor
    # Coordinates go from -1 to 1, so that a share of the side counts double.
    rows = [
        torch.stack([scaled_cos, -scaled_sin, 2 * MAX_TRANSLATION * shift_x], 1),
        torch.stack([scaled_sin, scaled_cos, 2 * MAX_TRANSLATION * shift_y], 1),
    ]
    return torch.stack(rows, 1)


def apply_affine(images: Tensor, affine_params: Tensor) -> Tensor:
    """uint8 (n, channels, height, width) → float32 in 0–255, read where `sources` says; outside is black."""
    height, width = images.shape[2:]
    # Both sides go from -1 to 1: without this a turn of what is not square would shear it.
    aspect_ratios = affine_params.new_tensor([[1, height / width, 1], [width / height, 1, 1]])
    grid = F.affine_grid(affine_params * aspect_ratios, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)
