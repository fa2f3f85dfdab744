"""Request bodies by media type: raw pixels, and the memory that parsing takes."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from relearn.model.errors import UserInputError
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import parse_raw

GRAY_SPEC = InputSpec((1, 28, 28), "mnist", max_images=4)


def test_raw_bytes_are_the_pixels(image: np.ndarray):
    """Raw bytes are parsed as one image or several, in order."""
    batch = np.stack([image, image.transpose(0, 2, 1), image // 2])

    assert np.array_equal(batch[:1], parse_raw(image.tobytes(), GRAY_SPEC))
    assert np.array_equal(batch, parse_raw(batch.tobytes(), GRAY_SPEC))


@pytest.mark.parametrize(
    ("length", "status", "code", "message"),
    [
        (783, 422, "wrong_shape", "got 783 bytes, accepted: 784 for each image of 1 × 28 × 28"),
        (785, 422, "wrong_shape", "got 785 bytes"),
        (5 * 784, 413, "batch_too_large", "got 5, accepted: up to 4"),
    ],
)
def test_raw_bytes_of_wrong_length_are_rejected(length: int, status: int, code: str, message: str):
    """A length that is not a multiple of an image, or too large, is rejected."""
    with pytest.raises(UserInputError, match=message) as error_info:
        parse_raw(bytes(length), GRAY_SPEC)

    assert (status, code) == (error_info.value.http_status, error_info.value.code)


@given(
    st.integers(0, 2**32),
    st.integers(1, 16),
    st.sampled_from(["<f8", "<f4", "<i8", "<i4", "<u2"]),
    st.sampled_from([1, 255]),
)
def test_raw_numbers_of_another_type_are_rejected(seed: int, count: int, dtype: str, white: int):
    """Pixels in a wider type than uint8, scaled or not, are no images of uint8; uint8 images are read."""
    spec = InputSpec((1, 28, 28), "mnist", max_images=256)
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 28, 28), np.uint8)
    images[..., :4] = 0
    scaled = images / np.float64(255 if white == 1 and "f" in dtype else 1)

    assert np.array_equal(images, parse_raw(images.tobytes(), spec))
    with pytest.raises(UserInputError, match=f"body: got bytes that are {np.dtype(dtype)} numbers"):
        parse_raw(scaled.astype(dtype).tobytes(), spec)


MEMORY_PROGRAM = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from relearn.model.errors import UserInputError
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import parse_body

def peak_memory_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def parse(arguments):
    media_type, file = arguments
    try:
        parse_body(MediaType(media_type, {}), Path(file).read_bytes(), InputSpec((1, 28, 28), "mnist", 256))
    except UserInputError as error:
        return error.code
    return "parsed"

first, *rest = zip(sys.argv[1::2], sys.argv[2::2])
parse(first)
start_mb = peak_memory_mb()
with ThreadPoolExecutor(2) as threads:
    print(*threads.map(parse, rest), round(peak_memory_mb() - start_mb))
"""


def parse_in_subprocess(folder: Path, media_type: str, first: bytes, *bodies: bytes) -> tuple[list[str], int]:
    """Parse bodies in two threads of a new process, after a `first` one.

    Return their outcomes and the additional peak memory in MB.
    """
    arguments = []
    for index, content in enumerate((first, *bodies)):
        (folder / str(index)).write_bytes(content)
        arguments += [media_type, str(folder / str(index))]
    result = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    *outcomes, memory_mb = result.stdout.split()
    return outcomes, int(memory_mb)


@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [
        *[("RGBA", "PNG", {}), ("CMYK", "JPEG", {}), ("RGB", "WEBP", {})],
        pytest.param("LA", "PNG", {}, marks=pytest.mark.slow),
        pytest.param("P", "PNG", {"transparency": 0}, marks=pytest.mark.slow),
        pytest.param("RGBA", "TIFF", {"compression": "tiff_lzw"}, marks=pytest.mark.slow),
        pytest.param("L", "GIF", {}, marks=pytest.mark.slow),
        pytest.param("1", "BMP", {}, marks=pytest.mark.slow),
    ],
)
def test_largest_images_take_little_memory(
    tmp_path: Path, encoded: Callable[..., bytes], mode: str, file_format: str, options: dict[str, Any]
):
    """Six images in two threads take less than 170 MB.

    64 MB for each of two, up to 5 MB for each to find a drawing on the page, and what malloc keeps of them.
    """
    content = io.BytesIO()
    side = 2048 if file_format == "WEBP" else 4096  # WebP takes four times the memory
    Image.new(mode, (side, side), 200 if mode == "P" else None).save(content, file_format, **options)
    small = encoded(np.zeros((1, 200, 200), np.uint8))

    outcomes, memory_mb = parse_in_subprocess(tmp_path, "image/png", small, *[content.getvalue()] * 6)

    assert ["parsed"] * 6 == outcomes
    assert memory_mb < 170


@pytest.mark.parametrize(
    ("item", "code"),
    [(b"0,", "batch_too_large"), (b"[[]],", "batch_too_large"), (b'"AA",', "batch_too_large")],
    ids=["numbers", "lists", "strings"],
)
def test_body_of_too_many_items_takes_little_memory(tmp_path: Path, item: bytes, code: str):
    """Four bodies of 10 MB, up to 750 MB each as lists, are rejected within 70 MB: copies of two bodies."""
    content = b'{"images":[' + item * (9_900_000 // len(item)) + item[:-1] + b"]}"

    outcomes, memory_mb = parse_in_subprocess(
        tmp_path, "application/json", b'{"images": [' + b"0," * 783 + b"0]}", *[content] * 4
    )

    assert [code] * 4 == outcomes
    assert memory_mb < 70
