"""From any picture to an image in the shape of a dataset."""

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from torch.nn import functional as F

from model.errors import InputError

if TYPE_CHECKING:
    from model.datasets import Style

FORMATS = {b"\x89PNG\r\n\x1a\n": PngImageFile, b"\xff\xd8\xff": JpegImageFile}
LARGEST_FILE = 10 * 2**20  # bytes
LARGEST_PICTURE = 2**24  # pixels: 4096 × 4096
SMALLEST_SIDE = 4  # pixels
LUMA = (0.299, 0.587, 0.114)  # red, green, blue in grey: ITU-R BT.601, as Pillow's mode L
PIECE = 1024  # images resized at a time: 3 MB of floats at 28 × 28
WORKING_SIDE = 448  # pixels; larger drawings are reduced first: 16 pixels for each of 28 are enough


def decode(
    content: bytes, largest_file: int = LARGEST_FILE, largest_picture: int = LARGEST_PICTURE
) -> Image.Image:
    """Decode a PNG or JPEG, told by its content alone, into a picture of mode L or RGB.

    Turned as its EXIF says; transparent parts become white, 16 bits become 8, CMYK and palettes RGB,
    an animation its first picture. `largest_file` is in bytes, `largest_picture` in pixels; both are
    checked before any pixel is decoded. InputError has the code `unsupported_image`, `invalid_image`
    or `image_dimensions`.
    """
    if len(content) > largest_file:
        raise InputError(
            f"the picture has {len(content):,} bytes, accepted: up to {largest_file:,}", "image_dimensions"
        )
    file_class = next((kind for magic, kind in FORMATS.items() if content.startswith(magic)), None)
    if file_class is None:
        raise InputError("the picture is neither PNG nor JPEG", "unsupported_image")
    try:
        # The class itself, not Image.open: no other decoder can be reached, and the size is ours to check.
        picture = file_class(io.BytesIO(content))
        _check_size(picture.size, largest_picture)
        picture.load()
        return _plain_mode(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"the picture cannot be decoded: {error}", "invalid_image") from None


def _check_size(size: tuple[int, int], largest_picture: int) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE or width * height > largest_picture:
        raise InputError(
            f"the picture has {width} × {height} pixels, accepted: sides of {SMALLEST_SIDE} or more "
            f"and up to {largest_picture:,} pixels",
            "image_dimensions",
        )


def _plain_mode(picture: Image.Image) -> Image.Image:
    """The picture in mode L or RGB."""
    if picture.mode.startswith("I"):  # 16 bits a pixel
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        opaque = Image.alpha_composite(paper, picture.convert("RGBA"))
        return opaque.convert("L" if picture.mode in ("L", "LA", "La", "1") else "RGB")
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


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
    from model.strokes import redraw

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
