"""Schemathesis generators for media types without a schema: image files, and raw pixels of 8 × 8."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

PIXELS_PER_IMAGE = 64


def make_image_file(file_format: str, side: int, seed: int) -> bytes:
    """Encode a black stroke on white paper, at a random place; noise is sometimes read as a blank page."""
    pixels = np.full((side, side), 255, dtype=np.uint8)
    column = np.random.default_rng(seed).integers(1, side - 1)
    pixels[1:-1, column] = 0
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, file_format)
    return content.getvalue()


def make_raw_pixels(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(count * PIXELS_PER_IMAGE)


def image_files(*file_formats: str) -> st.SearchStrategy[bytes]:
    return st.builds(make_image_file, st.sampled_from(file_formats), st.integers(4, 20), st.integers(0, 99))


FILE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
for file_format in FILE_FORMATS:
    schemathesis.openapi.media_type(f"image/{file_format.lower()}", image_files(file_format))
schemathesis.openapi.media_type(
    "application/octet-stream", st.builds(make_raw_pixels, st.integers(1, 4), st.integers(0, 99))
)
schemathesis.openapi.format(
    "picture", image_files(*FILE_FORMATS).map(lambda file: base64.b64encode(file).decode())
)


@schemathesis.hook
def filter_headers(_context: schemathesis.HookContext, headers: Mapping[str, object] | None) -> bool:
    """Leave out headers with a tab, which are ambiguous HTTP."""
    return not any("\t" in str(value) for value in (headers or {}).values())


@schemathesis.hook
def filter_body(_context: schemathesis.HookContext, body: object) -> bool:
    """Leave out what a JSON Schema cannot say.

    Only numbers up to 1 need a scale, and fit the scale 1; the image of feedback is not blank.
    """
    if not isinstance(body, dict):
        return True
    is_blank = len(set(list_leaves(body.get("image") or []))) == 1
    return "scale" not in body and not is_ambiguous(body) and not is_blank


def is_ambiguous(body: dict[str, Any]) -> bool:
    numbers = set(list_leaves(body.get("images", body.get("image"))))
    return bool(numbers) and numbers != {0} and numbers <= {0, 1}


def list_leaves(item: object) -> Iterator[object]:
    """Yield what is in nested lists, except strings, objects and lists."""
    if isinstance(item, list):
        for child in item:
            yield from list_leaves(child)
    elif not isinstance(item, str | dict):
        yield item
