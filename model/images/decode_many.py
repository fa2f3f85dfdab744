"""Parallel decoding of many image files into one array."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np

from relearn.model.errors import DataError, UserInputError
from relearn.model.images.decode import MIN_SIDE, decode_image
from relearn.model.images.formats import IMAGE_FORMATS
from relearn.model.images.resize import fit_image

MAX_NATIVE_SIDE = 64  # pixels; images with a longer side are resized
# Local files may be larger than those of a request: photos of any phone.
MAX_FILE_BYTES, MAX_PIXELS = 64 * 2**20, 2**26


class ImageSource(NamedTuple):
    """An image file by the name that messages use, and a function that opens it."""

    name: str
    open: Callable[[], BinaryIO]


class DamagedImage(NamedTuple):
    """An image file that cannot be decoded: its position in the list, name, reason, and SHA-256."""

    position: int
    name: str
    reason: str
    sha256: str


@dataclass(frozen=True)
class _DecodedImage:
    size: tuple[int, int] = (0, 0)
    image: np.ndarray | None = None
    error: str = ""
    sha256: str = ""


def decode_images(
    sources: Sequence[ImageSource], size: int | None, white: int | None = None
) -> tuple[np.ndarray, list[str], list[DamagedImage]]:
    """Decode image files to uint8 (n, channels, height, width), with notes on lost resolution.

    The result is grey if every image is grey, else colour. Each image is resized to `size`; without it, all
    must share one size of at most MAX_NATIVE_SIDE. Damaged images are not in the result, but listed.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(partial(_read_image, size=size, white=white), sources))
    damaged = [
        DamagedImage(position, source.name, result.error, result.sha256)
        for position, (source, result) in enumerate(zip(sources, results, strict=True))
        if result.error
    ]
    sizes = Counter(result.size for result in results if not result.error)
    if size is None and sizes:
        _check_uniform_size(sizes)
    images = [result.image for result in results if result.image is not None]
    if not images:
        return np.empty((0, 1, MIN_SIDE, MIN_SIDE), np.uint8), [], damaged
    channels = max(len(image) for image in images)
    shape = (len(images), channels, *images[0].shape[1:])
    batch = np.empty(shape, np.uint8)
    for target, image in zip(batch, images, strict=True):
        target[:] = image
    return batch, _downscaling_notes(sizes, size), damaged


def choose_side(sizes: Counter[tuple[int, int]]) -> int | None:
    """Choose the side for images of these sizes; None if all share one that may stay.

    It is the median of their shorter sides, rounded down to a multiple of 8, from 8 to MAX_NATIVE_SIDE.
    """
    if not sizes or (len(sizes) == 1 and max(max(sizes)) <= MAX_NATIVE_SIDE):
        return None
    shorter_sides = np.repeat([min(size) for size in sizes], list(sizes.values()))
    return max(8, min(MAX_NATIVE_SIDE, int(np.median(shorter_sides)) // 8 * 8))


def _read_image(source: ImageSource, size: int | None, white: int | None) -> _DecodedImage:
    content = b""
    try:
        with source.open() as file:
            content = file.read(MAX_FILE_BYTES + 1)
        pil_image = decode_image(content, MAX_FILE_BYTES, MAX_PIXELS, IMAGE_FORMATS, white)
    except (UserInputError, OSError) as error:
        return _DecodedImage(error=str(error), sha256=hashlib.sha256(content).hexdigest())
    if size is None and max(pil_image.size) > MAX_NATIVE_SIDE:
        return _DecodedImage(pil_image.size)  # rejected below with all sizes
    width, height = pil_image.size if size is None else (size, size)
    image = fit_image(pil_image, (1 if pil_image.mode == "L" else 3, height, width), "photo")
    is_gray = bool((image == image[:1]).all())
    return _DecodedImage(pil_image.size, image[:1] if is_gray else image)


def _check_uniform_size(sizes: Counter[tuple[int, int]]) -> None:
    sizes_text = ", ".join(f"{width} × {height}" for (width, height), _ in sizes.most_common(5))
    if len(sizes) > 5:
        sizes_text += f" and {len(sizes) - 5} more"
    if len(sizes) > 1 or max(max(sizes)) > MAX_NATIVE_SIDE:
        problem = "different sizes" if len(sizes) > 1 else f"more than {MAX_NATIVE_SIDE} pixels a side"
        raise DataError(
            f"the images have {problem} ({sizes_text}): give one size for all, such as --image-size 48"
        )


def _downscaling_notes(sizes: Counter[tuple[int, int]], size: int | None) -> list[str]:
    larger_sizes = {
        image_size: count
        for image_size, count in sizes.items()
        if size is not None and max(image_size) > size
    }
    if not larger_sizes:
        return []
    width, height = max(larger_sizes)
    return [
        f"resolution is lost: {sum(larger_sizes.values())} of {sizes.total()} images, up to {width} ×"
        f" {height} pixels, become {size} × {size}"
    ]
