"""Small random changes of training images: shifted, turned, scaled; what they show stays what it is."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# The most that is done at strength 1, either way: a share of the side, degrees, a share of the size.
SHIFT, TURN, SCALE = 0.08, 12.0, 0.12


def draw(count: int, strength: float, generator: torch.Generator) -> Tensor:
    """Where the pixels of each of `count` images come from, float32 (count, 2, 3) as `affine_grid` has it."""
    right, down, turn, scale = (2 * torch.rand(4, count, generator=generator) - 1) * strength
    angle, size = turn * math.radians(TURN), 1 + scale * SCALE
    across, along = angle.cos() / size, angle.sin() / size
    # Coordinates go from -1 to 1, so that a share of the side counts double.
    rows = [
        torch.stack([across, -along, 2 * SHIFT * right], 1),
        torch.stack([along, across, 2 * SHIFT * down], 1),
    ]
    return torch.stack(rows, 1)


def change(images: Tensor, sources: Tensor) -> Tensor:
    """uint8 (n, channels, height, width) → float32 in 0–255, read where `sources` says; outside is black."""
    height, width = images.shape[2:]
    # Both sides go from -1 to 1: without this a turn of what is not square would shear it.
    sides = sources.new_tensor([[1, height / width, 1], [width / height, 1, 1]])
    grid = F.affine_grid(sources * sides, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)
