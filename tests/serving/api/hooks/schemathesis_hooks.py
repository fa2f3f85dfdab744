"""Schemathesis generators for media types without a schema: image files, and raw pixels of 8 × 8."""

import base64
import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

PIXELS_PER_IMAGE = 64


def make_image_file(file_format: str, side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, file_format)
    return content.getvalue()


def make_raw_pixels(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(count * PIXELS_PER_IMAGE)


def image_files(*file_formats: str) -> st.SearchStrategy[bytes]:
    return st.builds(make_image_file, st.sampled_from(file_formats), st.integers(4, 20), st.integers(0, 99))


schemathesis.openapi.media_type("image/png", image_files("PNG"))
schemathesis.openapi.media_type("image/jpeg", image_files("JPEG"))
schemathesis.openapi.media_type(
    "application/octet-stream", st.builds(make_raw_pixels, st.integers(1, 4), st.integers(0, 99))
)
schemathesis.openapi.format(
    "picture", image_files("PNG", "JPEG").map(lambda file: base64.b64encode(file).decode())
)
