"""From any picture to an image in the shape of a dataset."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch.nn import functional as F

from relearn.model.errors import UserInputError

ImageStyle = Literal["mnist", "photo"]
"""`mnist`: bright strokes on a dark ground, centred by mass (the MNIST convention). `photo`: photos."""

FORMATS: dict[bytes, type[ImageFile]] = {b"\x89PNG\r\n\x1a\n": PngImageFile, b"\xff\xd8\xff": JpegImageFile}
MAX_FILE_BYTES = 10 * 2**20  # bytes
MAX_PIXELS = 2**24  # pixels: 4096 × 4096
MIN_SIDE = 4  # pixels
# Each scan of a progressive JPEG goes through all of its pixels: 22 ms at 4096 × 4096. Encoders write 10 for
# colour and up to 24 for CMYK, in a few bytes each: 115 kB hold 1,500.
MAX_JPEG_SCANS = 32
# Markers that a decoder obeys: neither 0xFF00, which is a byte of pixels, nor fill bytes, nor restarts.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_START_MARKER, _END_MARKER, _SCAN_MARKER = 0xD8, 0xD9, 0xDA
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # red, green, blue in grey: ITU-R BT.601, as Pillow's mode L
CHUNK_SIZE = 1024  # images resized at a time: 3 MB of floats at 28 × 28
WORKING_SIDE = 448  # pixels; larger drawings are reduced first: 16 pixels for each of 28 are enough
STRIP_PIXELS = 2**18  # pixels brought into mode L or RGB at a time: 1 MB in each of the four forms on the way
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
    content: bytes, max_file_bytes: int = MAX_FILE_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode a PNG or JPEG, told by its content alone, into a picture of mode L or RGB.

    Turned as its EXIF says; transparent parts become white, 16 bits become 8, CMYK and palettes RGB,
    an animation its first picture. `largest_file` is in bytes, `largest_picture` in pixels; both are
    checked before any pixel is decoded. InputError has the code `unsupported_image`, `invalid_image`
    or `image_dimensions`.
    """
    return decode_pixels(open_image(content, max_file_bytes, max_pixels))


def open_image(content: bytes, max_file_bytes: int, max_pixels: int) -> ImageFile:
    """A PNG or JPEG within the limits of `decode`, of which only the header has been read."""
    if len(content) > max_file_bytes:
        raise UserInputError(
            f"the picture has {len(content):,} bytes, accepted: up to {max_file_bytes:,}", "image_dimensions"
        )
    file_class = next(
        (image_class for magic, image_class in FORMATS.items() if content.startswith(magic)), None
    )
    if file_class is None:
        raise UserInputError("the picture is neither PNG nor JPEG", "unsupported_image")
    with _translate_decoding_errors():
        # The class itself, not Image.open: no other decoder can be reached, and the size is ours to check.
        image = file_class(io.BytesIO(content))
    _check_size(image.size, max_pixels)
    if file_class is JpegImageFile and (scans := _count_scans(content)) > MAX_JPEG_SCANS:
        raise UserInputError(
            f"the picture has {scans:,} scans, accepted: up to {MAX_JPEG_SCANS}", "image_dimensions"
        )
    return image


def decode_pixels(image: ImageFile, factors: tuple[int, int] = (1, 1)) -> Image.Image:
    """Decode what `open_picture` gave, into mode L or RGB, `factors` (across, down) times smaller."""
    with _translate_decoding_errors():
        original_side = max(image.size)
        if factors != (1, 1):  # a JPEG is then decoded at half, a quarter or an eighth of its size
            width, height = image.width // factors[0], image.height // factors[1]
            image.draft(None, (max(1, width), max(1, height)))
        applied_factor = round(original_side / max(image.size))
        image.load()
        converted_image = _reduce_to_l_or_rgb(
            image, (max(1, factors[0] // applied_factor), max(1, factors[1] // applied_factor))
        )
        # Only this tag is read: `ImageOps.exif_transpose` rewrites all of them, and stumbles over others.
        transpose_method = _EXIF_TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return converted_image if transpose_method is None else converted_image.transpose(transpose_method)


@contextmanager
def _translate_decoding_errors() -> Iterator[None]:
    """Say in one line that a picture is damaged.

    A parser meets damage as any exception there is, and Pillow's message may quote the picture's bytes.
    """
    try:
        yield
    except Exception:
        message = "the picture cannot be decoded, accepted: a whole PNG or JPEG file"
        raise UserInputError(message, "invalid_image") from None


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < MIN_SIDE or width * height > max_pixels:
        raise UserInputError(
            f"the picture has {width} × {height} pixels, accepted: sides of {MIN_SIDE} or more "
            f"and up to {max_pixels:,} pixels",
            "image_dimensions",
        )


def _count_scans(content: bytes) -> int:
    """How many scans a decoder will find in a JPEG.

    Segments are stepped over by their length, as the decoder does: a camera's thumbnail has scans too, and
    so has what some put behind the picture's end, where a video holds any bytes by chance.
    """
    scans, position = 0, 2
    while match := _MARKER.search(content, position):
        marker, position = match[1][0], match.end()
        if marker == _END_MARKER:
            break
        scans += marker == _SCAN_MARKER
        if marker != _START_MARKER:  # it alone has no length
            position += max(2, int.from_bytes(content[position : position + 2]))
    return scans


def _reduce_to_l_or_rgb(image: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """The picture in mode L or RGB and `factors` smaller, in little more memory than the two of them."""
    if image.mode == _l_or_rgb(image) and not image.has_transparency_data:
        return image if factors == (1, 1) else image.reduce(factors)
    (width, height), (factor_x, factor_y) = image.size, factors
    result = Image.new(_l_or_rgb(image), (-(-width // factor_x), -(-height // factor_y)))
    strip_height = factor_y * max(1, STRIP_PIXELS // (width * factor_y))
    for top in range(0, height, strip_height):
        strip = _to_l_or_rgb(image.crop((0, top, width, min(top + strip_height, height))))
        result.paste(strip.reduce(factors), (0, top // factor_y))
    return result


def _l_or_rgb(image: Image.Image) -> str:
    return "L" if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I") else "RGB"


def _to_l_or_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, image.convert("RGBA")).convert(_l_or_rgb(image))
    return image.convert(_l_or_rgb(image))


def compute_draft_factors(
    size: tuple[int, int], shape: tuple[int, int, int], style: ImageStyle
) -> tuple[int, int]:
    """How many times smaller, across and down, a picture of `size` may become before `fit_image`.

    Twice what it then works with is left, as `Image.thumbnail` leaves it: its result is the same to the eye.
    """
    sufficient_side = 2 * max(WORKING_SIDE, *shape[1:])
    width, height = size if style == "photo" else (max(size),) * 2
    return max(1, width // sufficient_side), max(1, height // sufficient_side)


def fit_image(image: Image.Image, shape: tuple[int, int, int], style: ImageStyle) -> np.ndarray:
    """Bring any picture into `shape` (channels, height, width), uint8.

    A picture of that height and width already is only converted to grey or colour. `photo` resizes the
    whole picture. `mnist` follows MNIST: bright on dark whichever way it was drawn, cropped, fitted into
    20 of 28 with its proportions kept, its centre of mass in the middle; a blank page gives zeros.
    """
    channels, height, width = shape
    image = _to_l_or_rgb(image).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if style == "mnist":
            image = _convert_to_mnist_style(image.convert("L"), height, width).convert(image.mode)
        else:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def _convert_to_mnist_style(image: Image.Image, height: int, width: int) -> Image.Image:
    from relearn.model.images.mnist_style import to_mnist_style

    image.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return Image.fromarray(to_mnist_style(np.asarray(image), height, width))


def encode_png(image: np.ndarray) -> bytes:
    """uint8 (channels, height, width) with one or three channels → the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def resize_batch(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images, uint8 (n, channels, height, width), in another `shape`: whole images, `photo`."""
    result = np.empty((len(images), *shape), np.uint8)
    for start in range(0, len(images), CHUNK_SIZE):
        chunk = torch.from_numpy(images[start : start + CHUNK_SIZE].astype(np.float32))
        if shape[0] < chunk.shape[1]:
            chunk = (chunk * torch.tensor(LUMA_WEIGHTS)[:, None, None]).sum(1, keepdim=True)
        if shape[1:] != chunk.shape[2:]:
            chunk = F.interpolate(chunk, shape[1:], mode="bicubic", antialias=True)
        result[start : start + CHUNK_SIZE] = chunk.round_().clamp_(0, 255).numpy()
    return result
