"""Resizing of images to the shape of a dataset, either whole or in MNIST's style."""

from typing import Literal

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from torch.nn import functional as F

from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import decode_pixels, to_l_or_rgb

ImageStyle = Literal["mnist", "photo"]
"""`mnist`: bright strokes on a dark background, centred by mass (MNIST's convention). `photo`: any other."""

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in Pillow's mode L
CHUNK_SIZE = 1024  # images resized at a time: 3 MB of floats at 28 × 28
# Mean and largest difference of 60 photos of 500 pixels that become 32 pixels, for a gap of 2: 0.96 and 42 of
# 255, of 4: 0.53 and 16, of 6: 0.50 and 16. At 3000 × 2000 pixels all three take the same time.
PHOTO_GAP, DRAWING_GAP = 6, 2
WORKING_SIDE = 448  # pixels; larger drawings are reduced first, 16 pixels for each of 28 are enough


def decode_fitted(
    image: ImageFile, shape: tuple[int, int, int], style: ImageStyle, white: int | None = None
) -> np.ndarray:
    """Decode an image from `open_image` and fit it to `shape`, uint8: the only way from a file to a network.

    A large image is decoded at a fraction of its size, see `compute_draft_factors`. The result is not that of
    a whole decoding: it differs by less than 1 of 255 on average.
    """
    pixels = decode_pixels(image, compute_draft_factors(image.size, shape, style), white)
    return fit_image(pixels, shape, style)


def compute_draft_factors(
    size: tuple[int, int], shape: tuple[int, int, int], style: ImageStyle
) -> tuple[int, int]:
    """Return the factors, horizontal and vertical, by which a decoder may reduce an image before `fit_image`.

    The reduced image has at least PHOTO_GAP times the side of `shape`, or DRAWING_GAP times the side that a
    drawing is analyzed at: the difference is invisible. So pixels change where a photo has 12 times the side
    of `shape` or more, a drawing 1,792 pixels.
    """
    if style == "photo":
        sufficient_side = PHOTO_GAP * max(shape[1:])
    else:
        sufficient_side = DRAWING_GAP * max(WORKING_SIDE, *shape[1:])
    width, height = size if style == "photo" else (max(size),) * 2
    return max(1, width // sufficient_side), max(1, height // sufficient_side)


def fit_image(image: Image.Image, shape: tuple[int, int, int], style: ImageStyle) -> np.ndarray:
    """Fit any image to `shape` (channels, height, width), uint8.

    An image of that height and width is only converted to grey or colour. `photo` resizes the whole image.
    `mnist` follows MNIST: made bright on dark, cropped, scaled to 20 of 28 pixels with its proportions kept,
    its centre of mass in the middle; a blank page gives zeros.
    """
    channels, height, width = shape
    image = to_l_or_rgb(image).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if style == "mnist":
            image = _convert_to_mnist_style(image.convert("L"), height, width).convert(image.mode)
        else:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def _convert_to_mnist_style(image: Image.Image, height: int, width: int) -> Image.Image:
    from relearn.model.images.mnist_style import to_mnist_style

    image.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return Image.fromarray(to_mnist_style(np.asarray(image), height, width))


def resize_batch(
    images: np.ndarray, shape: tuple[int, int, int], allocate: Allocate = allocate_in_memory
) -> np.ndarray:
    """Resize images, uint8 (n, channels, height, width), to `shape` without a crop, as in style `photo`."""
    result = allocate((len(images), *shape))
    for start in range(0, len(images), CHUNK_SIZE):
        chunk = torch.from_numpy(images[start : start + CHUNK_SIZE].astype(np.float32))
        if shape[0] < chunk.shape[1]:
            chunk = (chunk * torch.tensor(LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
        if shape[1:] != chunk.shape[2:]:
            chunk = F.interpolate(chunk, shape[1:], mode="bicubic", antialias=True)
        result[start : start + CHUNK_SIZE] = chunk.round_().clamp_(0, 255).numpy()
    return result
