"""Parallel decoding of many image files into one array."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from relearn.model.errors import DataError, UserInputError
from relearn.model.images.decode import decode_image
from relearn.model.images.resize import fit_image

MAX_NATIVE_SIDE = 64  # pixels; images with a longer side need an explicit size
# Local files may be larger than those of a request: photos of any phone.
MAX_FILE_BYTES, MAX_PIXELS = 64 * 2**20, 2**26


@dataclass(frozen=True)
class _DecodedImage:
    size: tuple[int, int] = (0, 0)
    image: np.ndarray | None = None
    error: str = ""


def decode_images(
    named_images: Sequence[tuple[str, Path | bytes]], size: int | None
) -> tuple[np.ndarray, list[str]]:
    """Decode named PNG and JPEG files to uint8 (n, channels, height, width), with notes on lost resolution.

    The result is grey if every image is grey, else colour. Each image is resized to `size`; without it, all
    must share one size of at most MAX_NATIVE_SIDE. Raises DataError with the first unreadable file and the
    number of all, or with the sizes found.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(partial(_read_image, size=size), (content for _, content in named_images)))
    failures = [
        (name, result.error) for (name, _), result in zip(named_images, results, strict=True) if result.error
    ]
    if failures:
        name, reason = failures[0]
        raise DataError(
            f"{len(failures)} of {len(named_images)} images cannot be read, the first is {name}: {reason}"
        )
    sizes = Counter(result.size for result in results)
    if size is None:
        _check_uniform_size(sizes)
    images = [result.image for result in results if result.image is not None]
    channels = max(len(image) for image in images)
    shape = (len(images), channels, *images[0].shape[1:])
    batch = np.empty(shape, np.uint8)
    for target, image in zip(batch, images, strict=True):
        target[:] = image
    return batch, _downscaling_notes(sizes, size)


def _read_image(content: Path | bytes, size: int | None) -> _DecodedImage:
    try:
        data = content if isinstance(content, bytes) else content.read_bytes()
        pil_image = decode_image(data, MAX_FILE_BYTES, MAX_PIXELS)
    except (UserInputError, OSError) as error:
        return _DecodedImage(error=str(error))
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
