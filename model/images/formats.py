"""Image file formats: how each is recognized by its content, and what is read of it."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from relearn.model.images.decoding_cost import (
    Elements,
    count_bmp_elements,
    count_gif_elements,
    count_jpeg_elements,
    count_png_elements,
    count_tiff_elements,
    count_webp_elements,
)

HEADER_BYTES = 32  # enough to recognize every format
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}  # "BM" alone starts many texts


@dataclass(frozen=True)
class ImageFormat:
    """A format by name, the test of its first bytes, Pillow's class, and the count of what decoding costs.

    Decoding takes `memory_factor` times the memory that a PNG of the same size takes.
    """

    name: str
    matches: Callable[[bytes], bool]
    file_class: type[ImageFile]
    count_elements: Callable[[bytes], Elements]
    memory_factor: int = 1

    @property
    def media_type(self) -> str:
        """The media type, such as image/png."""
        return f"image/{self.name.lower()}"


# Of an animation the first frame is read, of a TIFF the first page.
IMAGE_FORMATS = (
    ImageFormat("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile, count_png_elements),
    ImageFormat("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), JpegImageFile, count_jpeg_elements),
    ImageFormat(
        "WebP",
        lambda head: head[:4] == b"RIFF" and head[8:15] == b"WEBPVP8",
        WebPImageFile,
        count_webp_elements,
        memory_factor=4,  # Pillow keeps two canvases and a copy: 250 MB at 4096 × 4096
    ),
    ImageFormat(
        "BMP",
        lambda head: head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES,
        BmpImageFile,
        count_bmp_elements,
    ),
    ImageFormat("TIFF", lambda head: head[:4] in (b"II*\0", b"MM\0*"), TiffImageFile, count_tiff_elements),
    ImageFormat("GIF", lambda head: head[:6] in (b"GIF87a", b"GIF89a"), GifImageFile, count_gif_elements),
)
IMAGE_TYPES = tuple(image_format.media_type for image_format in IMAGE_FORMATS)
_NAMES = [image_format.name for image_format in IMAGE_FORMATS]
FORMAT_NAMES = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
# Suffixes of images in formats that are not read.
OTHER_IMAGE_SUFFIXES = {
    *(".avif", ".heic", ".heif", ".jp2", ".jxl", ".ico", ".svg", ".psd", ".tga", ".pgm", ".ppm", ".pnm"),
    *(".dcm", ".cr2", ".nef", ".arw", ".dng", ".raw", ".exr", ".hdr", ".eps", ".pcx"),
}
IMAGE_SUFFIXES = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
}


def recognize_format(head: bytes) -> ImageFormat | None:
    """Return the format of a file that starts with `head`, or None."""
    return next((image_format for image_format in IMAGE_FORMATS if image_format.matches(head)), None)


def read_webp_size(head: bytes) -> tuple[int, int]:
    """Read width and height from the first HEADER_BYTES of a WebP.

    Pillow allocates two canvases when it opens the file, before anything can check their size.
    """
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return (int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF)
