"""Preprocessing for a network, the same in training, evaluation and serving.

Images have the shape of the dataset already: `relearn.model.images.resize` resizes them.
"""

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def apply_affine(images: Tensor, affine_params: Tensor, outside: str = "zeros") -> Tensor:
    """Transform uint8 (n, channels, height, width) to float32 in 0–255, by matrices (n, 2, 3).

    `outside` is what grid_sample takes for pixels outside of the image: zeros, black, or border.
    """
    height, width = images.shape[2:]
    # Both sides go from -1 to 1: without this a rotation would shear images that are not square.
    aspect_ratios = affine_params.new_tensor([[1, height / width, 1], [width / height, 1, 1]])
    grid = F.affine_grid(affine_params * aspect_ratios, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode=outside, align_corners=False)
