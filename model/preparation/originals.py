"""Original test images: the files, or the pixels as PNG files, that a test split was made from."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from relearn.model.data.builtin import DATASETS
from relearn.model.data.custom import open_image_rows, read_source
from relearn.model.data.splits import TEST_SALT, hash_contents
from relearn.model.description.raw_dataset import ImageRow, ReadOptions
from relearn.model.devices import cpu_count
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images.decode import decode_image, encode_png
from relearn.model.images.decode_many import MAX_FILE_BYTES, MAX_PIXELS, compute_digest
from relearn.model.preparation.prepared import PreparedDataset

# Larger files are kept smaller. A network sees up to 256 pixels a side, a drawing is analyzed at 448.
MAX_STORED_BYTES, MAX_STORED_SIDE, JPEG_QUALITY = 2**19, 1024, 95


def read_test_files(prepared: PreparedDataset, home: Home) -> list[bytes | None]:
    """Read the original of each test image of `prepared` as an image file, in the order of the test split.

    It is None for an image that was changed or removed since; `DataError` is raised if all were.
    Images without a file become PNG files of their pixels before any resizing. A file of more than
    MAX_STORED_BYTES becomes a JPEG of quality 95 with at most MAX_STORED_SIDE pixels a side, a file in which
    another value is white than it declares a PNG.
    """
    sources = prepared.splits.test.sources
    wanted = [] if sources is None else sources[:, 0].tolist()
    originals = dict(_read_originals(prepared, home, frozenset(wanted)))
    if not originals:
        raise DataError(
            f"{prepared.uri}: all {len(wanted):,} test images have changed since the data were prepared, "
            "accepted: data with some of them"
        )
    return [originals.get(source) for source in wanted]


def _read_originals(
    prepared: PreparedDataset, home: Home, wanted: frozenset[int]
) -> Iterator[tuple[int, bytes]]:
    """Yield source hash and file of the `wanted` images."""
    description = prepared.description
    if description is None or description.layout in ("arrays", "pixel_table"):
        parts = (
            DATASETS[prepared.uri](home).splits
            if description is None
            else read_source(description, ReadOptions()).splits
        )
        for part in parts.values():
            hashes = hash_contents(part.images, TEST_SALT).tolist()
            for index, source in enumerate(hashes):
                if source in wanted:
                    yield source, encode_png(part.images[index])
        return
    with open_image_rows(description) as rows, ThreadPoolExecutor(cpu_count()) as pool:
        files = pool.map(partial(_read_file, wanted=wanted, white=description.scale), rows)
        yield from (file for file in files if file)


def _read_file(row: ImageRow, wanted: frozenset[int], white: int | None) -> tuple[int, bytes] | None:
    try:
        with row.source.open() as file:
            content = file.read()
    except OSError:  # it cannot be read, so no image was learned from it
        return None
    digest = np.frombuffer(compute_digest(content), np.uint8)
    source = int(hash_contents(digest[None], TEST_SALT)[0])
    return (source, reduce_file(content, white)) if source in wanted else None


def reduce_file(content: bytes, white: int | None = None) -> bytes:
    """Return an image file as it is kept; `white` is the value that is white, None as the file declares."""
    if white is None and len(content) <= MAX_STORED_BYTES:
        return content
    image, buffer = decode_image(content, MAX_FILE_BYTES, MAX_PIXELS, white), io.BytesIO()
    if len(content) > MAX_STORED_BYTES:
        image.thumbnail((MAX_STORED_SIDE, MAX_STORED_SIDE), Image.Resampling.BICUBIC)
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
