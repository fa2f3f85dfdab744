"""Random changes of training images, by the name of the setting `augmentation`.

The changes of an image are functions of some uniform random numbers, which the caller draws: the same numbers
give the same image.

Images a second of one core, with 3 × 32 × 32 and 3 × 224 × 224 pixels: `photo` 7,100 and 170, `strong` 2,300
and 110. Flips, crops and colors by the functions of `torchvision.transforms.v2`, which give all images of a
call the same change, reach 1,000 and 210: at 32 pixels that is half as fast as the cnn learns.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relearn.model.data.download import torchvision
from relearn.model.data.transforms import apply_affine
from relearn.model.images.resize import LUMA_WEIGHTS

GROUP_SIZE = 32  # images changed at a time: their floats stay in cache

# `light`, largest change in either direction: fraction of the side, degrees, fraction of the size.
MAX_TRANSLATION, MAX_ROTATION_DEGREES, MAX_SCALE_CHANGE = 0.04, 6.0, 0.06

# `photo`: smallest part of the image that a crop keeps, largest ratio of its sides, and change of brightness,
# contrast and saturation in either direction.
MIN_CROP_AREA, MAX_CROP_RATIO, COLOR_CHANGE = 0.35, 4 / 3, 0.4

# `strong`, as in RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719) at the magnitude 9 of 30
# that torchvision takes: distortions of an image, each with a random sign.
DISTORTIONS: tuple[Callable[[Any, Tensor, int], Tensor], ...] = (
    lambda v2, images, sign: v2.rotate(images, sign * 9.0),
    lambda v2, images, sign: v2.affine(images, 0.0, [0, 0], 1.0, [sign * 5.1, 0.0]),
    lambda v2, images, sign: v2.affine(images, 0.0, [0, 0], 1.0, [0.0, sign * 5.1]),
    lambda v2, images, sign: v2.affine(images, 0.0, [round(sign * 0.136 * images.shape[3]), 0], 1.0, [0, 0]),
    lambda v2, images, sign: v2.affine(images, 0.0, [0, round(sign * 0.136 * images.shape[2])], 1.0, [0, 0]),
    lambda v2, images, sign: v2.adjust_sharpness(images, 1 + sign * 0.27),
    lambda v2, images, sign: v2.posterize(images, 7),
    lambda v2, images, sign: v2.solarize(images, 178.0),
    lambda v2, images, sign: v2.equalize(images),
    lambda v2, images, sign: v2.autocontrast(images),
)
DISTORTIONS_OF_AN_IMAGE = 2

NUMBERS = {"light": 4, "photo": 8, "strong": DISTORTIONS_OF_AN_IMAGE + 8}
"""Uniform numbers of an image, by the name of the augmentation."""


def draw_numbers(name: str, count: int, generator: torch.Generator) -> Tensor | None:
    """Draw the uniform numbers of `count` images, float32 (numbers, count); None without augmentation."""
    return torch.rand(NUMBERS[name], count, generator=generator) if name != "none" else None


def augment(name: str, images: Tensor, numbers: Tensor) -> Tensor:
    """Change uint8 (n, channels, height, width) to float32 in 0–255 as `numbers` (numbers, n) say."""
    numbers = numbers.to(images.device)
    if name == "strong":
        images = distort(images, numbers[:DISTORTIONS_OF_AN_IMAGE])
        numbers = numbers[DISTORTIONS_OF_AN_IMAGE:]
    change = change_lightly if name == "light" else change_photo
    groups = zip(images.split(GROUP_SIZE), numbers.split(GROUP_SIZE, 1), strict=True)
    return torch.cat([change(*group) for group in groups])


def change_lightly(images: Tensor, numbers: Tensor) -> Tensor:
    """Shift, rotate and scale each image a little; pixels from outside are black."""
    shift_x, shift_y, rotation, scale = 2 * numbers - 1
    angle, scale_factor = rotation * math.radians(MAX_ROTATION_DEGREES), 1 + scale * MAX_SCALE_CHANGE
    scaled_cos, scaled_sin = angle.cos() / scale_factor, angle.sin() / scale_factor
    # Coordinates go from -1 to 1, so a fraction of the side counts double.
    rows = [
        torch.stack([scaled_cos, -scaled_sin, 2 * MAX_TRANSLATION * shift_x], 1),
        torch.stack([scaled_sin, scaled_cos, 2 * MAX_TRANSLATION * shift_y], 1),
    ]
    return apply_affine(images, torch.stack(rows, 1))


def change_photo(images: Tensor, numbers: Tensor) -> Tensor:
    """Flip, crop and enlarge each image, then change its brightness, contrast and saturation."""
    flip, area, ratio, x, y, *color = numbers
    sides = (MIN_CROP_AREA + (1 - MIN_CROP_AREA) * area).sqrt()
    stretch = MAX_CROP_RATIO ** (ratio - 0.5)
    width, height = (sides * stretch).clamp(max=1), (sides / stretch).clamp(max=1)
    sign, zero = torch.where(flip < 0.5, -1.0, 1.0), torch.zeros_like(flip)
    rows = [
        torch.stack([sign * width, zero, (1 - width) * (2 * x - 1)], 1),
        torch.stack([zero, height, (1 - height) * (2 * y - 1)], 1),
    ]
    cropped = apply_affine(images, torch.stack(rows, 1), "border")
    return _change_color(cropped, *(1 + COLOR_CHANGE * (2 * number - 1) for number in color))


def distort(images: Tensor, numbers: Tensor) -> Tensor:
    """Distort each image once for each of its numbers; images with the same distortion together."""
    torchvision()
    from torchvision.transforms.v2 import functional as v2

    distorted = images.clone()
    for row in numbers:
        choices = (row * 2 * len(DISTORTIONS)).int()  # a distortion and its sign
        for choice in choices.unique().tolist():
            is_chosen = choices == choice
            distortion, sign = DISTORTIONS[choice // 2], 1 - 2 * (choice % 2)
            distorted[is_chosen] = distortion(v2, distorted[is_chosen], sign)
    return distorted


def _change_color(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiply brightness, contrast and saturation of each image by its factor, in place."""
    brightness, contrast, saturation = (
        factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation)
    )
    images.mul_(brightness).clamp_(0, 255)
    mean = _to_gray(images).mean((2, 3), keepdim=True)
    images.sub_(mean).mul_(contrast).add_(mean).clamp_(0, 255)
    if images.shape[1] == 1:
        return images
    gray = _to_gray(images)
    return images.sub_(gray).mul_(saturation).add_(gray).clamp_(0, 255)


def _to_gray(images: Tensor) -> Tensor:
    """Return the luma of each pixel, (n, 1, height, width)."""
    weights = LUMA_WEIGHTS if images.shape[1] == 3 else (1.0,)
    return (images * images.new_tensor(weights).view(-1, 1, 1)).sum(1, keepdim=True)
