"""What schemathesis makes up for media types that no schema describes: pictures, and pixels of 8 × 8."""

import base64
import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image

PIXELS = 64


def picture(kind: str, side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def raw(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(count * PIXELS)


def pictures(*kinds: str) -> st.SearchStrategy[bytes]:
    return st.builds(picture, st.sampled_from(kinds), st.integers(4, 20), st.integers(0, 99))


schemathesis.openapi.media_type("image/png", pictures("PNG"))
schemathesis.openapi.media_type("image/jpeg", pictures("JPEG"))
schemathesis.openapi.media_type(
    "application/octet-stream", st.builds(raw, st.integers(1, 4), st.integers(0, 99))
)
schemathesis.openapi.format(
    "picture", pictures("PNG", "JPEG").map(lambda file: base64.b64encode(file).decode())
)
