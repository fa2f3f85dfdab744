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

HEADER_BYTES = 32  # enough to recognize every format
_BMP_HEADER_SIZES = {12, 40, 52, 56, 64, 108, 124}  # "BM" alone starts many texts


@dataclass(frozen=True)
class ImageFormat:
    """A format by name, the test of its first bytes, Pillow's class, and the limits of what is read."""

    name: str
    matches: Callable[[bytes], bool]
    file_class: type[ImageFile]
    limits: str = ""


IMAGE_FORMATS = (
    ImageFormat("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImageFile, "first frame"),
    ImageFormat("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), JpegImageFile, "up to 32 scans"),
    ImageFormat(
        "WebP",
        lambda head: head[:4] == b"RIFF" and head[8:15] == b"WEBPVP8",
        WebPImageFile,
        "first frame",
    ),
    ImageFormat(
        "BMP",
        lambda head: head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES,
        BmpImageFile,
    ),
    ImageFormat(
        "TIFF",
        lambda head: head[:4] in (b"II*\0", b"MM\0*"),
        TiffImageFile,
        "first page; up to 16 bits a channel, no fractions",
    ),
    ImageFormat("GIF", lambda head: head[:6] in (b"GIF87a", b"GIF89a"), GifImageFile, "first frame"),
)
REQUEST_FORMATS = IMAGE_FORMATS[:2]  # of a request: the decoders that are tested most
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
