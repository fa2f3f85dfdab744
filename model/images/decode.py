"""Decoding of image files to images of mode L or RGB, and encoding as PNG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from relearn.model.errors import UserInputError
from relearn.model.images.decoding_cost import check_cost
from relearn.model.images.formats import FORMAT_NAMES, HEADER_BYTES, read_webp_size, recognize_format
from relearn.model.images.scale import BYTE_WHITE, WORD_WHITE, scale_to_uint8

MAX_FILE_BYTES = 10 * 2**20
MAX_PIXELS = 2**24  # 4096 × 4096
MIN_SIDE = 4  # pixels
# TIFF may contain JPEG, whose scans are not counted there.
UNSUPPORTED_COMPRESSIONS = {"jpeg", "tiff_jpeg"}
NEARLY_WHITE = 224  # mean of the visible pixels; strokes of this gray on white paper can hardly be seen
SAMPLE_SIDE = 256  # pixels of the longer side of the image that the background is chosen by
STRIP_PIXELS = 2**18  # pixels converted to mode L or RGB at a time: 1 MB in each of the four steps
_EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    content: bytes,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_pixels: int = MAX_PIXELS,
    white: int | None = None,
) -> Image.Image:
    """Decode an image file, recognized by its content alone, to an image of mode L or RGB.

    It is rotated as its EXIF says; transparent parts become white, or black behind white strokes; 16 bits
    become 8, CMYK and palettes RGB, an animation its first frame. `white` is the value that is white, by
    default that of the file's bit depth.
    `max_file_bytes`, `max_pixels` and what decoding costs are checked before any pixel is decoded.
    UserInputError has the code `unsupported_image`, `invalid_image`, `image_dimensions` or
    `image_too_complex`.
    """
    return decode_pixels(open_image(content, max_file_bytes, max_pixels), white=white)


def open_image(content: bytes, max_file_bytes: int, max_pixels: int) -> ImageFile:
    """Read the header of an image file and check the limits of `decode_image`."""
    if len(content) > max_file_bytes:
        raise UserInputError(
            f"the image has {len(content):,} bytes, accepted: up to {max_file_bytes:,}", "image_dimensions"
        )
    if image_format := recognize_format(content[:HEADER_BYTES]):
        check_cost(content, image_format.count_elements)
    return read_header(io.BytesIO(content), max_pixels)


def read_header(file: BinaryIO, max_pixels: int) -> ImageFile:
    """Read the header of an image file and check its size; no pixel is decoded."""
    head = file.read(HEADER_BYTES)
    file.seek(0)
    image_format = recognize_format(head)
    if image_format is None:
        raise UserInputError(f"the image is not {FORMAT_NAMES}", "unsupported_image")
    max_pixels //= image_format.memory_factor
    if image_format.name == "WebP":
        _check_size(read_webp_size(head), max_pixels)
    with _translate_decoding_errors():
        # Unlike Image.open, the class can reach no other decoder and leaves the check of the size to us.
        image = image_format.file_class(file)
    _check_size(image.size, max_pixels)
    if image.mode in ("I", "F"):
        raise UserInputError(
            "the image has 32 bits a pixel, accepted: up to 16 bits a channel", "unsupported_image"
        )
    if image.info.get("compression") in UNSUPPORTED_COMPRESSIONS:
        raise UserInputError(
            "the TIFF is compressed as JPEG, accepted: no compression, LZW, Deflate, PackBits, CCITT, or the"
            " JPEG alone",
            "unsupported_image",
        )
    return image


def decode_pixels(
    image: ImageFile, factors: tuple[int, int] = (1, 1), white: int | None = None
) -> Image.Image:
    """Decode an image from `open_image` to mode L or RGB, `factors` (horizontal, vertical) times smaller."""
    with _translate_decoding_errors():
        original_side = max(image.size)
        if factors != (1, 1):  # a JPEG is then decoded at half, a quarter or an eighth of its size
            width, height = image.width // factors[0], image.height // factors[1]
            image.draft(None, (max(1, width), max(1, height)))
        applied_factor = round(original_side / max(image.size))
        image.load()
        converted_image = _reduce_to_l_or_rgb(
            image if white is None else _rescale(image, white),
            (max(1, factors[0] // applied_factor), max(1, factors[1] // applied_factor)),
        )
        # Only this tag is read: `ImageOps.exif_transpose` rewrites all tags and fails at damaged ones.
        transpose_method = _EXIF_TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return converted_image if transpose_method is None else converted_image.transpose(transpose_method)


def _rescale(image: Image.Image, white: int) -> Image.Image:
    """Convert values up to `white` to 8 bits; more than 8 bits are those of a 16-bit image."""
    if not image.mode.startswith("I") and (white > BYTE_WHITE or image.mode not in ("L", "RGB")):
        return image
    values = np.asarray(image)
    if values.max() > white:
        raise UserInputError(
            f"the image has values up to {values.max()}, accepted: 0 to {white}", "out_of_range"
        )
    return Image.fromarray(scale_to_uint8(values, white))


@contextmanager
def _translate_decoding_errors() -> Iterator[None]:
    """Raise UserInputError for a damaged image.

    A parser raises any kind of exception for damage, and Pillow's message may quote the image's bytes.
    """
    try:
        yield
    except UserInputError:
        raise
    except Exception:
        message = f"the image cannot be decoded, accepted: a complete {FORMAT_NAMES} file"
        raise UserInputError(message, "invalid_image") from None


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < MIN_SIDE or width * height > max_pixels:
        raise UserInputError(
            f"the image has {width} × {height} pixels, accepted: sides of {MIN_SIDE} or more "
            f"and up to {max_pixels:,} pixels",
            "image_dimensions",
        )


def get_upright_size(image: ImageFile) -> tuple[int, int]:
    """Return width and height of an image after the rotation that its EXIF says."""
    width, height = image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if is_turned else (width, height)


def _reduce_to_l_or_rgb(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """Convert to mode L or RGB, `factors` times smaller, in little more memory than input and result."""
    if image.mode == _l_or_rgb(image) and not image.has_transparency_data:
        return image if factors == (1, 1) else image.reduce(factors)
    (width, height), (factor_x, factor_y) = image.size, factors
    result = Image.new(_l_or_rgb(image), (-(-width // factor_x), -(-height // factor_y)))
    background_color = choose_background(image) if image.has_transparency_data else None
    strip_height = factor_y * max(1, STRIP_PIXELS // (width * factor_y))
    for top in range(0, height, strip_height):
        strip = to_l_or_rgb(image.crop((0, top, width, min(top + strip_height, height))), background_color)
        result.paste(strip.reduce(factors), (0, top // factor_y))
    return result


def _l_or_rgb(image: Image.Image) -> str:
    return "L" if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I") else "RGB"


def to_l_or_rgb(image: Image.Image, background_color: str | None = None) -> Image.Image:
    """Convert an image to mode L or RGB; transparent parts get the color `background_color`."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        return Image.fromarray(scale_to_uint8(np.asarray(image), WORD_WHITE))
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, background_color or choose_background(image))
        return Image.alpha_composite(background, image.convert("RGBA")).convert(_l_or_rgb(image))
    return image.convert(_l_or_rgb(image))


def choose_background(image: Image.Image) -> Literal["black", "white"]:
    """Choose the color behind a transparent image: black if what is visible is nearly white, else white."""
    image = image.resize([min(side, SAMPLE_SIDE) for side in image.size], Image.Resampling.NEAREST)
    brightness, opacity = np.asarray(image.convert("LA"), np.float32).transpose(2, 0, 1)
    return "black" if (brightness * opacity).sum() > NEARLY_WHITE * opacity.sum() else "white"


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 (channels, height, width) with one or three channels as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()
