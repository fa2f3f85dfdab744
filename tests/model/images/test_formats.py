"""Promises of image formats: content decides, and sizes are checked before pixels."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relearn.model.errors import UserInputError
from relearn.model.images.decode import decode_image, read_header
from relearn.model.images.formats import HEADER_BYTES, read_webp_size, recognize_format

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, image_format, **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_every_format_keeps_its_pixels(image_format: str, options: dict[str, Any]) -> None:
    """Lossless formats give the stored pixels, and are recognized by their first bytes."""
    content = encode(Image.fromarray(PIXELS), image_format, **options)
    assert image_format == recognize_format(content[:HEADER_BYTES]).name.upper()
    assert np.array_equal(PIXELS, np.asarray(decode_image(content)))


@pytest.mark.parametrize("content", [b"BM is a text", b"RIFF____WAVEfmt ", b"GIF", b"II", b"", b"\x89PNG"])
def test_other_bytes_are_no_image(content: bytes) -> None:
    """Texts, sounds and beginnings of signatures are not recognized."""
    assert recognize_format(content) is None


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "WEBP"])
def test_first_frame_is_read(image_format: str) -> None:
    """Of an animation or of pages the first one."""
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 255)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    content = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    decoded = decode_image(content).convert("L")
    assert 0 == decoded.getpixel((3, 3))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08" + bytes(9)}])
def test_size_of_a_webp_is_known_before_it_is_opened(options: dict[str, Any]) -> None:
    """In all three kinds of WebP; a canvas above the limit is refused without being allocated."""
    content = encode(Image.fromarray(PIXELS), "WEBP", **options)
    assert (30, 20) == read_webp_size(content[:HEADER_BYTES])
    huge = b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xff\x3f\x00\xff\x3f\x00" + bytes(9)
    with pytest.raises(UserInputError, match="16384 × 16384 pixels"):
        read_header(io.BytesIO(huge), 2**26)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_a_pixel_are_refused(dtype: Any) -> None:
    """Whole numbers and fractions of 32 bits have no white."""
    content = encode(Image.fromarray(np.arange(600, dtype=dtype).reshape(20, 30)), "TIFF")
    with pytest.raises(UserInputError, match="32 bits a pixel, accepted: up to 16 bits a channel"):
        decode_image(content)


def test_jpeg_inside_a_tiff_is_refused() -> None:
    """Its scans are not counted, so it could cost any time."""
    content = encode(Image.fromarray(PIXELS), "TIFF", compression="jpeg")
    with pytest.raises(UserInputError, match="the TIFF is compressed as JPEG, accepted: no compression, LZW"):
        decode_image(content)
