"""Image files of generated data sets: formats, depths, suffixes and names."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from tests.model.sources.layout_sketch import Draw, Sketch, draw_pixels

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "bmp": ".bmp", "tiff": ".tif", "gif": ".gif"}
RARE_SUFFIXES = {
    "png": (".PNG",),
    "jpeg": (".jpeg", ".jfif", ".jpe", ".JPG", ".JPEG"),
    "webp": (".WebP",),
    "bmp": (".dib", ".BMP"),
    "tiff": (".tiff", ".TIFF", ".TIF"),
    "gif": (".GIF",),
}
FORMATS = {"png": 6.0, "jpeg": 4.0, "webp": 1.5, "bmp": 1.0, "tiff": 1.2, "gif": 1.0, "mixed": 2.5}
LOOKS = {"noise": 6.0, "border": 2.0, "dark": 1.0, "binary": 0.7}


@dataclass(frozen=True, eq=False)
class Picture:
    """An encoded image file with its suffix."""

    content: bytes
    suffix: str


def draw_pictures(sketch: Sketch) -> list[Picture]:
    """Draw and encode the images; the pixels of lossy files become what Pillow decodes."""
    draw = sketch.draw
    gray = draw.pick("color", {"gray": 1, "rgb": 1}) == "gray"
    file_format = draw.pick("format", FORMATS)
    depths: dict[str, float] = {"plain": 8}
    if gray and file_format == "png":
        depths |= {"1 bit": 0.6, "0/1": 0.6, "16 bit": 1, "12 of 16 bit": 0.6, "12 bit by sBIT": 0.4}
    if gray and file_format == "tiff":
        depths |= {"16 bit": 3, "12 of 16 bit": 1}
    if file_format == "png":
        depths |= {"palette": 1, "opaque alpha": 1}
    if not gray and file_format == "jpeg":
        depths |= {"cmyk": 0.7}
    depth = draw.pick("depth", depths)
    binary, deep = depth in {"1 bit", "0/1"}, "bit" in depth and depth != "1 bit"
    looks = {"binary": 1.0} if binary else {"noise": 1.0} if deep else LOOKS
    turned = file_format in {"png", "jpeg"} and depth == "plain" and draw.flip("turned by EXIF", 0.12)
    draw_pixels(sketch, 1 if gray else 3, looks, square=turned)
    if depth == "12 of 16 bit":
        sketch.two("16-bit files whose maximum lies below 2^15, without sBIT")
    frames = file_format in {"gif", "tiff"} and depth == "plain" and draw.flip("several frames", 0.2)
    if frames:
        sketch.report("only the first frame is read")
    some_gray = not gray and depth == "plain" and draw.flip("some gray files", 0.1)
    suffixes = draw.pick(
        "suffixes", {"right": 7, "upper": 1, "rare": 1.2, "missing": 0.8, "wrong": 0.8, "several": 0.8}
    )
    pictures, decoded = [], []
    for place, pixels in enumerate(sketch.pixels):
        one = draw.one_of(tuple(SUFFIXES)) if file_format == "mixed" else file_format
        flat = pixels[:1] if some_gray and place % 3 == 1 else pixels
        # Only images of several kinds show that each file is looked at on its own.
        turn = draw.one_of((1, 3, 6, 8)) if turned else 1
        content = encode(flat, one, depth, turn, flat[:, ::-1] if frames and place % 2 == 0 else None)
        lossy = one == "jpeg" or turn != 1
        truth = decode(content) if lossy else flat
        decoded.append(np.broadcast_to(truth, pixels.shape))
        pictures.append(Picture(content, _suffix(draw, suffixes, one)))
    sketch.pixels = np.stack(decoded)
    return pictures


def _suffix(draw: Draw, style: str, file_format: str) -> str:
    if style == "several":
        style = draw.one_of(("right", "upper", "rare"))
    if style == "missing":
        return ""
    if style == "wrong":
        return draw.one_of([suffix for name, suffix in SUFFIXES.items() if name != file_format])
    if style == "rare":
        return draw.one_of(RARE_SUFFIXES[file_format])
    return SUFFIXES[file_format].upper() if style == "upper" else SUFFIXES[file_format]


def encode(pixels: np.ndarray, file_format: str, depth: str, turn: int, second: np.ndarray | None) -> bytes:
    """Encode one image, uint8 (channels, height, width); `turn` is its EXIF orientation."""
    image = _to_image(pixels, file_format, depth)
    options: dict[str, object] = {}
    if file_format == "jpeg":
        options = {"quality": 90}
    elif file_format == "webp":
        options = {"lossless": True, "exact": True}
    elif depth == "12 bit by sBIT":
        info = PngImagePlugin.PngInfo()
        info.add(b"sBIT", b"\x0c")
        options = {"pnginfo": info}
    if turn != 1:
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    if second is not None:
        options |= {"save_all": True, "append_images": [_to_image(second, file_format, depth)]}
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper(), **options)
    return buffer.getvalue()


def _to_image(pixels: np.ndarray, file_format: str, depth: str) -> Image.Image:
    gray = pixels[0]
    wide = gray.astype(np.uint16)
    twelve = wide << 4 | wide >> 4
    if depth == "1 bit":
        return Image.fromarray(gray > 127)
    if depth == "0/1":
        return Image.fromarray(gray // 255)
    if depth == "16 bit":
        return Image.fromarray(wide * 257)
    if depth == "12 of 16 bit":
        return Image.fromarray(twelve)
    if depth == "12 bit by sBIT":  # as PNG wants it: in the upper bits, the highest repeated below
        return Image.fromarray(twelve << 4 | twelve >> 8)
    if depth == "palette" or (file_format == "gif" and len(pixels) == 3):
        return _to_palette(pixels)
    image = Image.fromarray(gray if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2)))
    if depth == "opaque alpha":
        image.putalpha(255)
    return image.convert("CMYK") if depth == "cmyk" else image


def _to_palette(pixels: np.ndarray) -> Image.Image:
    """Return the same colors by palette; small images have at most 256."""
    rows = np.broadcast_to(pixels, (3, *pixels.shape[1:])).reshape(3, -1).T
    colors, places = np.unique(rows, axis=0, return_inverse=True)
    image = Image.fromarray(places.reshape(pixels.shape[1:]).astype(np.uint8), "P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


def decode(content: bytes) -> np.ndarray:
    """Decode with Pillow alone into uint8 (channels, height, width)."""
    with Image.open(io.BytesIO(content)) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode in {"L", "1", "LA"}:
            return np.asarray(image.convert("L"))[None]
        if image.mode.startswith("I"):
            return (np.asarray(image) >> 8).astype(np.uint8)[None]
        return np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)


def draw_names(sketch: Sketch, count: int) -> list[str]:
    """Return file names without suffix."""
    style = sketch.draw.pick("file names", {"padded": 4, "camera": 2, "bare": 2, "odd": 1.5, "dotted": 0.7})
    patterns: dict[str, tuple[str, ...]] = {
        "padded": ("{:05d}",),
        "camera": ("IMG_{:04d}",),
        "bare": ("{}",),
        "odd": (
            "фото {}",
            "it's {}",
            'say "{}"',
            "a, b {}",
            "🐱{}",
            "50% {}#",
            "image ({})",
            "-{}",
            "[{}]",
            "x;{}",
        ),
        "dotted": ("v1.0.{}",),
    }
    return [patterns[style][place % len(patterns[style])].format(place + 1) for place in range(count)]


def truncate(content: bytes) -> bytes:
    """Return so much of an image file that Pillow cannot decode it."""
    for parts in (2, 4, 8):
        part = content[: len(content) // parts]
        try:
            with warnings.catch_warnings(action="ignore"):
                decode(part)
        except (OSError, SyntaxError, ValueError):
            return part
    return content[:24]
