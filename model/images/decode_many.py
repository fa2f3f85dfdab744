"""Parallel decoding of many image files into one array, in constant memory beside that array."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL.ImageFile import ImageFile

from relearn.model.devices import cpu_count
from relearn.model.errors import DataError, UserInputError
from relearn.model.images.allocate import Allocate, allocate_in_memory, copy_rows
from relearn.model.images.decode import MIN_SIDE, decode_pixels, get_upright_size, open_image
from relearn.model.images.perceptual_hash import (
    MIN_HASHED_SIDE,
    THUMBNAIL_SHAPE,
    compute_perceptual_hashes,
)
from relearn.model.images.resize import compute_draft_factors, decode_fitted, fit_image

MAX_NATIVE_SIDE = 64  # pixels; images with a longer side are resized
# Local files may be larger than those of a request: photos of any phone.
MAX_FILE_BYTES, MAX_PIXELS = 64 * 2**20, 2**26
COLOR_IS_LOST = "color is lost: the images have three channels, the network gets one"
DIGEST_BYTES = 16
FILES_AT_A_TIME = 256  # decoded but not yet in the array: 50 MB at 3 × 256 × 256

OnProgress = Callable[[int, int], None]
"""Is called with the number of images that are done, and of all."""


def ignore_progress(done: int, total: int) -> None:
    """Show nothing."""


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
    is_gray: bool = True
    digest: bytes = b""
    perceptual_hash: int = 0
    error: str = ""
    sha256: str = ""


class DecodedImages(NamedTuple):
    """Images, uint8 (n, channels, height, width), notes, damaged files, and whether an image was resized.

    `digests`, uint8 (n, 16), are BLAKE2 hashes of the files, `perceptual_hashes`, uint64 (n,), are 0 for
    images with few details.
    """

    images: np.ndarray
    digests: np.ndarray
    perceptual_hashes: np.ndarray
    notes: list[str]
    damaged: list[DamagedImage]
    is_resized: bool


def decode_images(
    sources: Sequence[ImageSource],
    size: int | None,
    white: int | None = None,
    channels: int | None = None,
    allocate: Allocate = allocate_in_memory,
    on_progress: OnProgress = ignore_progress,
) -> DecodedImages:
    """Decode image files to uint8 (n, channels, height, width), with notes on lost resolution and color.

    Without `channels` the result is gray if every image is gray, else color. Each image is resized to
    `size`, as `decode_fitted` does for a request; without it, all must share one size of at most
    MAX_NATIVE_SIDE. Damaged images are not in the result, but listed.
    """
    batch, damaged = _Batch(len(sources), allocate), list[DamagedImage]()
    sizes, gray_images, digests = Counter[tuple[int, int]](), 0, list[bytes]()
    perceptual_hashes = list[int]()
    read = partial(_read_image, size=size, white=white, channels=channels)
    with ThreadPoolExecutor(cpu_count()) as pool:
        for start in range(0, len(sources), FILES_AT_A_TIME):
            results = pool.map(read, sources[start : start + FILES_AT_A_TIME])
            for position, result in enumerate(results, start):
                if result.error:
                    damaged.append(
                        DamagedImage(position, sources[position].name, result.error, result.sha256)
                    )
                else:
                    sizes[result.size] += 1
                    digests.append(result.digest)
                    perceptual_hashes.append(result.perceptual_hash)
                    gray_images += result.is_gray
                if result.image is not None:
                    batch.append(result.image)
                on_progress(position + 1, len(sources))
    if size is None and sizes:
        _check_uniform_size(sizes)
    notes = _downscaling_notes(sizes, size)
    if channels == 1 and gray_images < sizes.total():
        notes.append(COLOR_IS_LOST)
    is_resized = size is not None and any(image_size != (size, size) for image_size in sizes)
    digest_rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
    hashes = np.array(perceptual_hashes, np.uint64)
    return DecodedImages(batch.images, digest_rows, hashes, notes, damaged, is_resized)


class _Batch:
    """Array that is filled image by image; it becomes color with the first color image."""

    def __init__(self, capacity: int, allocate: Allocate) -> None:
        self._capacity, self._allocate, self._count = capacity, allocate, 0
        self._array = np.empty((0, 1, MIN_SIDE, MIN_SIDE), np.uint8)

    @property
    def images(self) -> np.ndarray:
        return self._array[: self._count]

    def append(self, image: np.ndarray) -> None:
        """Add an image; one of another size than the first is left out, as it is reported by its size."""
        if not self._count:
            self._array = self._allocate((self._capacity, *image.shape))
        if image.shape[1:] != self._array.shape[2:]:
            return
        if len(image) > self._array.shape[1]:
            wider = self._allocate((self._capacity, *image.shape))
            copy_rows(self._array, np.arange(self._count), lambda shape: wider[: self._count])
            self._array = wider
        self._array[self._count] = image
        self._count += 1


def compute_digest(content: bytes) -> bytes:
    """Compute the BLAKE2 hash of an image file, DIGEST_BYTES long."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def choose_side(sizes: Counter[tuple[int, int]]) -> int | None:
    """Choose the side for images of these sizes; None if all share one that may stay.

    It is the median of their shorter sides, rounded down to a multiple of 8, from 8 to MAX_NATIVE_SIDE.
    """
    if not sizes or (len(sizes) == 1 and max(max(sizes)) <= MAX_NATIVE_SIDE):
        return None
    shorter_sides = np.repeat([min(size) for size in sizes], list(sizes.values()))
    return max(8, min(MAX_NATIVE_SIDE, int(np.median(shorter_sides)) // 8 * 8))


def _read_image(
    source: ImageSource, size: int | None, white: int | None, channels: int | None
) -> _DecodedImage:
    content = b""
    try:
        with source.open() as file:
            content = file.read(MAX_FILE_BYTES + 1)
        image_file = open_image(content, MAX_FILE_BYTES, MAX_PIXELS)
        upright_size = get_upright_size(image_file)
        if size is None and max(upright_size) > MAX_NATIVE_SIDE:
            return _DecodedImage(upright_size)  # rejected below with all sizes
        return _decode(content, image_file, size, white, channels)
    except (UserInputError, OSError) as error:
        return _DecodedImage(error=str(error), sha256=hashlib.sha256(content).hexdigest())


def _decode(
    content: bytes, image_file: ImageFile, size: int | None, white: int | None, channels: int | None
) -> _DecodedImage:
    """Do what `decode_fitted` does; without `channels`, see from the decoded pixels which are needed."""
    file_size, upright_size = image_file.size, get_upright_size(image_file)
    width, height = upright_size if size is None else (size, size)
    factors = compute_draft_factors(file_size, (channels or 3, height, width), "photo")
    pixels = decode_pixels(image_file, factors, white)
    is_gray = pixels.mode == "L" or bool((np.asarray(pixels) == np.asarray(pixels)[..., :1]).all())
    shape = (channels or (1 if is_gray else 3), height, width)
    fitted, perceptual_hash = fit_image(pixels, shape, "photo"), 0
    if min(upright_size) >= MIN_HASHED_SIDE:
        if factors != compute_draft_factors(file_size, THUMBNAIL_SHAPE, "photo"):  # the same hash at any size
            image_file = open_image(content, MAX_FILE_BYTES, MAX_PIXELS)
            thumbnail = decode_fitted(image_file, THUMBNAIL_SHAPE, "photo", white)
        else:
            thumbnail = fit_image(pixels, THUMBNAIL_SHAPE, "photo")
        perceptual_hash = int(compute_perceptual_hashes(thumbnail[None])[0])
    return _DecodedImage(upright_size, fitted, is_gray, compute_digest(content), perceptual_hash)


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
