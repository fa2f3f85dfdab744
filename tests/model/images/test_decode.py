"""Promises of decoding: any image file is decoded or rejected with a reason, and fitted to a shape."""

import io
import re
import struct
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from relearn.model.errors import UserInputError
from relearn.model.images.decode import decode_image, decode_pixels, encode_png, open_image
from relearn.model.images.decoding_cost import MAX_ELEMENTS
from relearn.model.images.formats import FORMAT_NAMES
from relearn.model.images.resize import compute_draft_factors, fit_image

MNIST = (1, 28, 28)
RNG = np.random.default_rng(0)
COLOR_PIXELS = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format=image_format, **options)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims any size and that ends before its pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\x09IDAT"


def test_grey_and_colour_images_are_decoded() -> None:
    """PNG keeps every pixel, JPEG nearly."""
    assert np.array_equal(COLOR_PIXELS, np.asarray(decode_image(encode(Image.fromarray(COLOR_PIXELS)))))
    gray = Image.fromarray(np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1)))
    decoded = decode_image(encode(gray, "JPEG", quality=95))
    assert ("L", (30, 20)) == (decoded.mode, decoded.size)
    assert np.abs(np.asarray(decoded, int) - np.asarray(gray, int)).max() < 10


@pytest.mark.parametrize("image_format", ["EPS", "PPM", "ICO", "PCX", "TGA", "JPEG2000"])
def test_other_formats_are_rejected(image_format: str) -> None:
    """The content decides: other formats that Pillow reads are rejected."""
    with pytest.raises(UserInputError) as caught:
        decode_image(encode(Image.fromarray(COLOR_PIXELS), image_format))
    assert "unsupported_image" == caught.value.code


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG", b"<svg/>", b"%!PS-Adobe", b"/etc/passwd", b"http://127.0.0.1/"]
)
def test_bytes_that_are_no_image_are_rejected(content: bytes) -> None:
    """No bytes, text, addresses and paths are rejected; addresses and paths are not opened."""
    with pytest.raises(UserInputError) as caught:
        decode_image(content)
    assert "unsupported_image" == caught.value.code


INVALID_IMAGE = ("invalid_image", f"the image cannot be decoded, accepted: a complete {FORMAT_NAMES} file")
PNG, JPEG = encode(Image.fromarray(COLOR_PIXELS)), encode(Image.fromarray(COLOR_PIXELS), "JPEG")


@pytest.mark.parametrize(
    "content",
    [
        PNG[:8],
        PNG[:20],
        PNG[: len(PNG) // 2],
        PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:],
        PNG[:29] + b"\0\0\0\0" + PNG[33:],
        JPEG[:3],
        JPEG[:50],
        JPEG[: len(JPEG) // 2],
        png_header(0, 28),
        png_header(28, 28),
    ],
)
def test_damaged_images_are_rejected(content: bytes) -> None:
    """Truncated, flipped bits, wrong checksums, no width: the message is always the same."""
    with pytest.raises(UserInputError) as caught:
        decode_image(content)
    assert INVALID_IMAGE == (caught.value.code, str(caught.value))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (3, 28), (20_000, 20_000), (65_535, 65_535), (2**31 - 1, 4)]
)
def test_sizes_are_checked_before_decoding(width: int, height: int) -> None:
    """A header that claims too few or too many pixels is rejected without a warning."""
    with pytest.raises(UserInputError) as caught:
        decode_image(png_header(width, height))
    assert "image_dimensions" == caught.value.code


def test_limits_are_set_by_the_caller() -> None:
    """Bytes and pixels up to the limit are accepted, one more is rejected."""
    assert (30, 20) == decode_image(PNG, max_file_bytes=len(PNG), max_pixels=600).size
    for limits in ({"max_file_bytes": len(PNG) - 1}, {"max_pixels": 599}):
        with pytest.raises(UserInputError, match="accepted"):
            decode_image(PNG, **limits)


def test_16_bits_become_8() -> None:
    """The upper byte of each pixel is kept."""
    pixels = np.linspace(0, 65_535, 600).reshape(20, 30).astype(np.uint16)
    decoded = decode_image(encode(Image.fromarray(pixels)))
    assert ("L", True) == (decoded.mode, np.array_equal(pixels >> 8, np.asarray(decoded)))


def test_palette_becomes_colours() -> None:
    """An image of eight colors keeps them."""
    eight_colors = Image.fromarray(COLOR_PIXELS // 128 * 128)
    assert np.array_equal(
        np.asarray(eight_colors), np.asarray(decode_image(encode(eight_colors.quantize(8))))
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(mode: str) -> None:
    """A drawing on a transparent background gets a white one."""
    drawing = np.zeros((20, 30, 4), np.uint8)
    drawing[5:15, 10:20, 3] = 255
    decoded = decode_image(encode(Image.fromarray(drawing).convert(mode)))
    gray = np.asarray(decoded.convert("L"))
    assert (255, 0) == (gray[0, 0], gray[10, 15])
    assert decoded.mode in ("L", "RGB")


def test_large_image_has_no_seams() -> None:
    """Conversion to gray or color in strips equals that of the whole image."""
    image = Image.fromarray(RNG.integers(0, 256, (700, 901, 4), np.uint8))
    background = Image.new("RGBA", image.size, "white")
    for mode, expected_mode in (("RGBA", "RGB"), ("LA", "L")):
        expected = Image.alpha_composite(background, image.convert(mode).convert("RGBA"))
        decoded = decode_image(encode(image.convert(mode)))
        assert expected_mode == decoded.mode
        assert np.array_equal(np.asarray(expected.convert(expected_mode)), np.asarray(decoded))


def test_cmyk_becomes_rgb() -> None:
    """Print colors become screen colors."""
    red = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    decoded = decode_image(encode(red, "JPEG", quality=95))
    assert "RGB" == decoded.mode
    assert np.abs(np.asarray(decoded, int) - (255, 0, 0)).max() < 12


def test_1_bit_becomes_grey() -> None:
    """Black and white become 0 and 255."""
    decoded = decode_image(encode(Image.fromarray(COLOR_PIXELS).convert("1")))
    assert ("L", {0, 255}) == (decoded.mode, set(np.unique(np.asarray(decoded)).tolist()))


def test_photo_is_rotated_upright() -> None:
    """The EXIF orientation of the camera is applied."""
    photo = Image.new("RGB", (30, 20))
    photo.paste((255, 255, 255), (0, 0, 15, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate clockwise
    decoded = decode_image(encode(photo, "JPEG", exif=exif))
    assert (20, 30) == decoded.size
    assert np.asarray(decoded)[3].mean() > 200
    assert np.asarray(decoded)[-3].mean() < 50


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_applied(image_format: str, orientation: int) -> None:
    """The eight orientations are applied as Pillow does; other values are ignored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(COLOR_PIXELS), image_format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(upright), np.asarray(decode_image(content)))


@pytest.mark.parametrize(
    "entry", [b"\x82\x9a\0\x05\0\0\0\x01\0\0\x03\xe7", b"\x87\x69\0\x04\0\0\0\x01\0\0\x03\xe7"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
def test_orientation_is_read_despite_damaged_tags(entry: bytes) -> None:
    """A tag that points behind the end of the EXIF does not hide the orientation."""
    orientation = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + orientation + entry + bytes(4)
    assert (20, 30) == decode_image(encode(Image.fromarray(COLOR_PIXELS), "JPEG", exif=exif)).size


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """Change or delete a few bytes; recompute the checksums of a PNG."""
    mutated = bytearray(content)
    for _ in range(random.integers(1, 6)):
        position = random.integers(3, min(len(mutated), 200))  # in headers and EXIF
        if random.random() < 0.8:
            mutated[position] = random.choice([0, 1, 127, 128, 255])
        else:
            del mutated[position : position + random.integers(1, 4)]
    if not content.startswith(b"\x89PNG"):
        return content[:3] + bytes(mutated[3:])
    png, rest = content[:8], bytes(mutated[8:])
    while len(rest) >= 12:
        length = min(int.from_bytes(rest[:4]), len(rest) - 12)
        chunk, rest = rest[4 : 8 + length], rest[12 + length :]
        png += struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png


def decode_outcome(content: bytes) -> str:
    """Return `decoded`, or the error of an image."""
    try:
        return "decoded" if decode_image(content).mode in ("L", "RGB") else "another mode"
    except UserInputError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_any_damage_gives_an_image_or_a_user_input_error(image_format: str) -> None:
    """Of 400 mutated images with EXIF none raises another exception or quotes the parser or the image."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "hello" * 5, {0x9000: b"0220", 0xA002: 3}
    options = {"exif": exif} if image_format in ("PNG", "JPEG", "WEBP") else {}
    content = encode(Image.fromarray(COLOR_PIXELS[:8, :8]), image_format, **options)
    random = np.random.default_rng(1)
    outcomes = Counter(decode_outcome(mutate(content, random)) for _ in range(400))
    assert {"decoded", INVALID_IMAGE[1]} <= set(outcomes)
    assert all(
        outcome in ("decoded", INVALID_IMAGE[1], f"the image is not {FORMAT_NAMES}")
        or re.fullmatch(
            r"the (image|TIFF) (has [0-9 ×]+ pixels|has 32 bits|has more than|is compr).*", outcome
        )
        for outcome in outcomes
    )


def progressive_jpeg(scans: int, between: bytes = b"") -> bytes:
    """A progressive JPEG of 10 or more scans: repeats the last scan, with the bytes `between`."""
    content = encode(Image.fromarray(COLOR_PIXELS), "JPEG", progressive=True)
    last_scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (between + last_scan) * (scans - 10) + content[-2:]


def comment_segment(content: bytes) -> bytes:
    """A JPEG comment."""
    return b"\xff\xfe" + struct.pack(">H", len(content) + 2) + content


BYTES_BETWEEN_SCANS = {
    "nothing": b"",
    "end marker in a comment": comment_segment(b"\xff\xd9"),
    "fill bytes": b"\xff" * 9,
    "marker without length": b"\xff\x02\xff\xff",
    "comment of length zero": b"\xff\xfe\0\0",
}


@pytest.mark.parametrize("between", BYTES_BETWEEN_SCANS.values(), ids=BYTES_BETWEEN_SCANS)
def test_jpeg_with_too_many_scans_is_rejected(between: bytes) -> None:
    """The limit is accepted; 1,500 scans, half a minute of decoding, are rejected before."""
    assert (30, 20) == decode_image(progressive_jpeg(MAX_ELEMENTS["scans"])).size
    with pytest.raises(UserInputError, match="has more than 32 scans, accepted: up to 32") as caught:
        decode_image(progressive_jpeg(1_500, between))
    assert "image_too_complex" == caught.value.code


def test_scans_outside_the_image_are_not_counted() -> None:
    """Scans of a thumbnail before the image and of data behind its end do not count."""
    markers = b"\xff\xda\0\x02" * 100
    content = progressive_jpeg(10)
    assert (30, 20) == decode_image(content[:2] + comment_segment(markers) + content[2:] + markers).size


def test_animation_becomes_its_first_frame() -> None:
    """Other frames are ignored."""
    frames = [Image.new("L", (20, 20), shade) for shade in (10, 200)]
    assert 10 == decode_image(encode(frames[0], save_all=True, append_images=frames[1:])).getpixel((5, 5))


@pytest.mark.parametrize(
    ("image_format", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "CMYK")]
)
@pytest.mark.parametrize(("style", "shape"), [("mnist", MNIST), ("photo", (3, 32, 32))])
def test_large_image_may_be_reduced_first(image_format: str, mode: str, style: Any, shape: Any) -> None:
    """Decoded at a fraction of its size, the fitted image differs by less than 1 of 255 on average."""
    small = Image.fromarray((255 - load_digits().images[3] * 15).astype(np.uint8))
    page = ImageOps.expand(small, 3, 255).resize((3000, 2100), Image.Resampling.BICUBIC).convert(mode)
    content = encode(page, image_format)
    reduced = decode_pixels(
        open_image(content, len(content), 2**24), compute_draft_factors(page.size, shape, style)
    )
    assert max(reduced.size) <= max(page.size) / 2
    expected = fit_image(decode_image(content), shape, style).astype(int)
    assert np.abs(fit_image(reduced, shape, style) - expected).mean() < 1


@pytest.mark.parametrize(("style", "side"), [("mnist", 1791), ("photo", 12 * 28 - 1)])
def test_smaller_images_are_not_reduced(style: Any, side: int) -> None:
    """Drawings below 1,792 pixels a side, and photos below 12 sides of the network, keep every pixel."""
    assert (1, 1) == compute_draft_factors((side, side), MNIST, style)
    assert (2, 2) == compute_draft_factors((side + 1, side + 1), MNIST, style)


@pytest.mark.parametrize("size", [(65_500, 4), (4, 65_500), (2100, 3001)])
@pytest.mark.parametrize(("style", "side"), [("mnist", 896), ("photo", 6 * 28)])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_large_images_of_any_proportions_are_reduced(
    size: tuple[int, int], style: Any, side: int, image_format: str
) -> None:
    """The longer side becomes 896 pixels (photo: 168) or up to twice as many, also of lines and odd sides."""
    content = encode(Image.new("L", size, 200), image_format)
    image = open_image(content, len(content), 2**24)
    reduced = decode_pixels(image, compute_draft_factors(size, MNIST, style)).size
    assert side <= max(reduced) < 2 * side
    assert min(reduced) >= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels: int) -> None:
    """A decoded PNG equals the encoded image."""
    image = RNG.integers(0, 256, (channels, 9, 12), dtype=np.uint8)
    pixels = np.asarray(decode_image(encode_png(image)))

    assert np.array_equal(image, pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))
