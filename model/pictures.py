"""Many picture files at once, as one array."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from relearn.model.datasets import SMALL
from relearn.model.errors import DataError, InputError
from relearn.model.images import decode, fit_image

# The user's own files are trusted with more than a request is: photos of any phone.
LARGEST_FILE, LARGEST_PICTURE = 64 * 2**20, 2**26  # bytes, pixels


@dataclass(frozen=True)
class _Picture:
    size: tuple[int, int] = (0, 0)
    image: np.ndarray | None = None
    refusal: str = ""


def stack(pictures: Sequence[tuple[str, Path | bytes]], size: int | None) -> tuple[np.ndarray, list[str]]:
    """Decode named PNG and JPEG pictures into uint8 (n, channels, height, width), with notes on what is lost.

    Grey where every picture is grey, else colour. In their own size where they all share it and it is small,
    else each is resized to `size`. DataError names the pictures that cannot be read, or the sizes found.
    """
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(partial(_read, size=size), (content for _, content in pictures)))
    refused = [(name, one.refusal) for (name, _), one in zip(pictures, read, strict=True) if one.refusal]
    if refused:
        name, reason = refused[0]
        raise DataError(
            f"{len(refused)} of {len(pictures)} pictures cannot be read, the first is {name}: {reason}"
        )
    sizes = Counter(one.size for one in read)
    if size is None:
        _check_uniform(sizes)
    images = [one.image for one in read if one.image is not None]
    channels = max(len(image) for image in images)
    shape = (len(images), channels, *images[0].shape[1:])
    stacked = np.empty(shape, np.uint8)
    for place, image in zip(stacked, images, strict=True):
        place[:] = image
    return stacked, _lost(sizes, size)


def _read(content: Path | bytes, size: int | None) -> _Picture:
    try:
        data = content if isinstance(content, bytes) else content.read_bytes()
        picture = decode(data, LARGEST_FILE, LARGEST_PICTURE)
    except (InputError, OSError) as error:
        return _Picture(refusal=str(error))
    if size is None and max(picture.size) > SMALL:
        return _Picture(picture.size)  # will be refused, with all sizes named: no need to keep it
    width, height = picture.size if size is None else (size, size)
    image = fit_image(picture, (1 if picture.mode == "L" else 3, height, width), "plain")
    grey = bool((image == image[:1]).all())
    return _Picture(picture.size, image[:1] if grey else image)


def _check_uniform(sizes: Counter[tuple[int, int]]) -> None:
    found = ", ".join(f"{width} × {height}" for (width, height), _ in sizes.most_common(5))
    if len(sizes) > 5:
        found += f" and {len(sizes) - 5} more"
    if len(sizes) > 1 or max(max(sizes)) > SMALL:
        what = "different sizes" if len(sizes) > 1 else f"more than {SMALL} pixels a side"
        raise DataError(f"the pictures have {what} ({found}): give one size for all, such as --size 48")


def _lost(sizes: Counter[tuple[int, int]], size: int | None) -> list[str]:
    larger = {found: count for found, count in sizes.items() if size is not None and max(found) > size}
    if not larger:
        return []
    width, height = max(larger)
    return [
        f"resolution is lost: {sum(larger.values())} of {sizes.total()} pictures, up to {width} × {height} "
        f"pixels, become {size} × {size}"
    ]
