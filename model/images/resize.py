"""Resizing of images to the shape of a dataset, either whole or in MNIST's style."""

from typing import Literal

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from torch.nn import functional as F

from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import decode_pixels, to_l_or_rgb

ImageStyle = Literal["mnist", "drawing", "photo"]
"""`mnist`: bright strokes on a dark background, of one size and centered by mass (MNIST's form). `drawing`:
bright strokes on a dark background, of any size and anywhere. `photo`: any other."""

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in Pillow's mode L
MIDDLE_GRAY = 128
CHUNK_SIZE = 1024  # images resized at a time: 3 MB of floats at 28 × 28
# Mean and largest difference of 60 photos of 500 pixels that become 32 pixels, for a gap of 2: 0.96 and 42 of
# 255, of 4: 0.53 and 16, of 6: 0.50 and 16. At 3000 × 2000 pixels all three take the same time.
PHOTO_GAP, DRAWING_GAP = 6, 2
DRAWING_SIDE = 448  # pixels; a drawing is analyzed at this size, 16 pixels for each of 28


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
        sufficient_side = DRAWING_GAP * max(DRAWING_SIDE, *shape[1:])
    width, height = size if style == "photo" else (max(size),) * 2
    return max(1, width // sufficient_side), max(1, height // sufficient_side)


def fit_image(image: Image.Image, shape: tuple[int, int, int], style: ImageStyle) -> np.ndarray:
    """Fit any image to `shape` (channels, height, width), uint8.

    `photo` resizes the whole image. `mnist` and `drawing` convert to MNIST's form: bright on dark, cropped,
    scaled to 20 of 28 pixels with its proportions kept, its center of mass in the middle; zeros if nothing is
    legible. An image of that height and width that already has the style keeps every pixel.
    """
    channels, height, width = shape
    image = to_l_or_rgb(image)
    mode = "L" if channels == 1 else "RGB"
    if style != "photo" and not (image.size == (width, height) and _has_style(image, style)):
        from relearn.model.images.mnist_style import to_mnist_style

        image = Image.fromarray(to_mnist_style(image, height, width))
    elif image.size != (width, height):
        image = image.convert(mode).resize((width, height), Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(image.convert(mode))).transpose(2, 0, 1)


def _has_style(image: Image.Image, style: ImageStyle) -> bool:
    from relearn.model.images.mnist_style import has_mnist_form

    gray = np.asarray(image.convert("L"))[None]
    return bool((has_mnist_form(gray) if style == "mnist" else is_bright_on_dark(gray)).all())


def is_bright_on_dark(images: np.ndarray) -> np.ndarray:
    """Find images, uint8 (n, h, w), with more dark than bright pixels; bool (n,)."""
    result: np.ndarray = (images < MIDDLE_GRAY).mean(axis=(1, 2)) > 0.5
    return result


def find_blank(images: np.ndarray, style: ImageStyle) -> np.ndarray:
    """Find drawings without any ink: those of one gray level; images (n, channels, h, w) to bool (n,)."""
    flat = images.reshape(len(images), -1)
    return np.zeros(len(images), bool) if style == "photo" else (flat == flat[:, :1]).all(axis=1)


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
