"""From any picture to an image in the shape of a dataset."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch.nn import functional as F

from relearn.model.errors import InputError

if TYPE_CHECKING:
    from relearn.model.datasets import Style

FORMATS: dict[bytes, type[ImageFile]] = {b"\x89PNG\r\n\x1a\n": PngImageFile, b"\xff\xd8\xff": JpegImageFile}
LARGEST_FILE = 10 * 2**20  # bytes
LARGEST_PICTURE = 2**24  # pixels: 4096 × 4096
SMALLEST_SIDE = 4  # pixels
# Each scan of a progressive JPEG goes through all of its pixels: 22 ms at 4096 × 4096. Encoders write 10 for
# colour and up to 24 for CMYK, in a few bytes each: 115 kB hold 1,500.
MOST_SCANS = 32
# Markers that a decoder obeys: neither 0xFF00, which is a byte of pixels, nor fill bytes, nor restarts.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
LUMA = (0.299, 0.587, 0.114)  # red, green, blue in grey: ITU-R BT.601, as Pillow's mode L
PIECE = 1024  # images resized at a time: 3 MB of floats at 28 × 28
WORKING_SIDE = 448  # pixels; larger drawings are reduced first: 16 pixels for each of 28 are enough
STRIP = 2**18  # pixels brought into mode L or RGB at a time: 1 MB in each of the four forms on the way
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    content: bytes, largest_file: int = LARGEST_FILE, largest_picture: int = LARGEST_PICTURE
) -> Image.Image:
    """Decode a PNG or JPEG, told by its content alone, into a picture of mode L or RGB.

    Turned as its EXIF says; transparent parts become white, 16 bits become 8, CMYK and palettes RGB,
    an animation its first picture. `largest_file` is in bytes, `largest_picture` in pixels; both are
    checked before any pixel is decoded. InputError has the code `unsupported_image`, `invalid_image`
    or `image_dimensions`.
    """
    return unfold(open_picture(content, largest_file, largest_picture))


def open_picture(content: bytes, largest_file: int, largest_picture: int) -> ImageFile:
    """A PNG or JPEG within the limits of `decode`, of which only the header has been read."""
    if len(content) > largest_file:
        raise InputError(
            f"the picture has {len(content):,} bytes, accepted: up to {largest_file:,}", "image_dimensions"
        )
    file_class = next((kind for magic, kind in FORMATS.items() if content.startswith(magic)), None)
    if file_class is None:
        raise InputError("the picture is neither PNG nor JPEG", "unsupported_image")
    with _decoding():
        # The class itself, not Image.open: no other decoder can be reached, and the size is ours to check.
        picture = file_class(io.BytesIO(content))
    _check_size(picture.size, largest_picture)
    if file_class is JpegImageFile and (scans := _scans(content)) > MOST_SCANS:
        raise InputError(f"the picture has {scans:,} scans, accepted: up to {MOST_SCANS}", "image_dimensions")
    return picture


def unfold(picture: ImageFile, factors: tuple[int, int] = (1, 1)) -> Image.Image:
    """Decode what `open_picture` gave, into mode L or RGB, `factors` (across, down) times smaller."""
    with _decoding():
        longer = max(picture.size)
        if factors != (1, 1):  # a JPEG is then decoded at half, a quarter or an eighth of its size
            width, height = picture.width // factors[0], picture.height // factors[1]
            picture.draft(None, (max(1, width), max(1, height)))
        done = round(longer / max(picture.size))
        picture.load()
        plain = _plain(picture, (max(1, factors[0] // done), max(1, factors[1] // done)))
        # Only this tag is read: `ImageOps.exif_transpose` rewrites all of them, and stumbles over others.
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        return plain if turn is None else plain.transpose(turn)


@contextmanager
def _decoding() -> Iterator[None]:
    """Say in one line that a picture is damaged.

    A parser meets damage as any exception there is, and Pillow's message may quote the picture's bytes.
    """
    try:
        yield
    except Exception:
        message = "the picture cannot be decoded, accepted: a whole PNG or JPEG file"
        raise InputError(message, "invalid_image") from None


def _check_size(size: tuple[int, int], largest_picture: int) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE or width * height > largest_picture:
        raise InputError(
            f"the picture has {width} × {height} pixels, accepted: sides of {SMALLEST_SIDE} or more "
            f"and up to {largest_picture:,} pixels",
            "image_dimensions",
        )


def _scans(content: bytes) -> int:
    """How many scans a decoder will find in a JPEG.

    Segments are stepped over by their length, as the decoder does: a camera's thumbnail has scans too, and
    so has what some put behind the picture's end, where a video holds any bytes by chance.
    """
    scans, place = 0, 2
    while found := _MARKER.search(content, place):
        marker, place = found[1][0], found.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        if marker != _START:  # it alone has no length
            place += max(2, int.from_bytes(content[place : place + 2]))
    return scans


def _plain(picture: Image.Image, factors: tuple[int, int]) -> Image.Image:
    """The picture in mode L or RGB and `factors` smaller, in little more memory than the two of them."""
    if picture.mode == _plain_of(picture) and not picture.has_transparency_data:
        return picture if factors == (1, 1) else picture.reduce(factors)
    (width, height), (across, down) = picture.size, factors
    whole = Image.new(_plain_of(picture), (-(-width // across), -(-height // down)))
    rows = down * max(1, STRIP // (width * down))
    for top in range(0, height, rows):
        strip = _plain_mode(picture.crop((0, top, width, min(top + rows, height))))
        whole.paste(strip.reduce(factors), (0, top // down))
    return whole


def _plain_of(picture: Image.Image) -> str:
    return "L" if picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I") else "RGB"


def _plain_mode(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if picture.mode.startswith("I"):  # 16 bits a pixel
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(paper, picture.convert("RGBA")).convert(_plain_of(picture))
    return picture.convert(_plain_of(picture))


def reduction(size: tuple[int, int], shape: tuple[int, int, int], style: "Style") -> tuple[int, int]:
    """How many times smaller, across and down, a picture of `size` may become before `fit_image`.

    Twice what it then works with is left, as `Image.thumbnail` leaves it: its result is the same to the eye.
    """
    enough = 2 * max(WORKING_SIDE, *shape[1:])
    width, height = size if style == "plain" else (max(size),) * 2
    return max(1, width // enough), max(1, height // enough)


def fit_image(picture: Image.Image, shape: tuple[int, int, int], style: "Style") -> np.ndarray:
    """Bring any picture into `shape` (channels, height, width), uint8.

    A picture of that height and width already is only converted to grey or colour. `plain` resizes the
    whole picture. `strokes` follows MNIST: bright on dark whichever way it was drawn, cropped, fitted into
    20 of 28 with its proportions kept, its centre of mass in the middle; a blank page gives zeros.
    """
    channels, height, width = shape
    picture = _plain_mode(picture).convert("L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        if style == "strokes":
            picture = _redrawn(picture.convert("L"), height, width).convert(picture.mode)
        else:
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)


def _redrawn(picture: Image.Image, height: int, width: int) -> Image.Image:
    from relearn.model.strokes import redraw

    picture.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return Image.fromarray(redraw(np.asarray(picture), height, width))


def png(image: np.ndarray) -> bytes:
    """uint8 (channels, height, width) with one or three channels → the bytes of a PNG."""
    content = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, "PNG")
    return content.getvalue()


def reshape(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images, uint8 (n, channels, height, width), in another `shape`: whole images, `plain`."""
    result = np.empty((len(images), *shape), np.uint8)
    for start in range(0, len(images), PIECE):
        piece = torch.from_numpy(images[start : start + PIECE].astype(np.float32))
        if shape[0] < piece.shape[1]:
            piece = (piece * torch.tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        if shape[1:] != piece.shape[2:]:
            piece = F.interpolate(piece, shape[1:], mode="bicubic", antialias=True)
        result[start : start + PIECE] = piece.round_().clamp_(0, 255).numpy()
    return result
