"""Promises to those who send a picture: read whatever it is, or told why not."""

import io
import struct
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from relearn.model.errors import UserInputError
from relearn.model.images.decode import (
    MAX_JPEG_SCANS,
    compute_draft_factors,
    decode_image,
    decode_pixels,
    encode_png,
    fit_image,
    open_image,
    resize_batch,
)

MNIST = (1, 28, 28)
RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format=kind, **options)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims any size, and that ends where its pixels should begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\x09IDAT"


def test_grey_and_colour_are_read_as_they_are() -> None:
    """PNG gives back every pixel, JPEG nearly."""
    assert np.array_equal(COLOURS, np.asarray(decode_image(encoded(Image.fromarray(COLOURS)))))
    grey = Image.fromarray(np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1)))
    decoded = decode_image(encoded(grey, "JPEG", quality=95))
    assert ("L", (30, 20)) == (decoded.mode, decoded.size)
    assert np.abs(np.asarray(decoded, int) - np.asarray(grey, int)).max() < 10


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "WEBP", "EPS", "PPM", "ICO"])
def test_other_formats_are_not_even_tried(kind: str) -> None:
    """The content decides, not a name: everything but PNG and JPEG is refused."""
    with pytest.raises(UserInputError) as caught:
        decode_image(encoded(Image.fromarray(COLOURS), kind))
    assert "unsupported_image" == caught.value.code


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG", b"<svg/>", b"%!PS-Adobe", b"/etc/passwd", b"http://127.0.0.1/"]
)
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    """Nothing, text, addresses and paths are not pictures, and are not followed."""
    with pytest.raises(UserInputError) as caught:
        decode_image(content)
    assert "unsupported_image" == caught.value.code


UNDECODED = ("invalid_image", "the picture cannot be decoded, accepted: a whole PNG or JPEG file")
PNG, JPEG = encoded(Image.fromarray(COLOURS)), encoded(Image.fromarray(COLOURS), "JPEG")


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
def test_damaged_pictures_are_refused(content: bytes) -> None:
    """Cut short, flipped bits, wrong checksums, no width: one fixed line."""
    with pytest.raises(UserInputError) as caught:
        decode_image(content)
    assert UNDECODED == (caught.value.code, str(caught.value))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (3, 28), (20_000, 20_000), (65_535, 65_535), (2**31 - 1, 4)]
)
def test_sizes_are_checked_before_decoding(width: int, height: int) -> None:
    """A header that claims too few or too many pixels is refused on its word, without a warning."""
    with pytest.raises(UserInputError) as caught:
        decode_image(png_header(width, height))
    assert "image_dimensions" == caught.value.code


def test_limits_are_the_callers() -> None:
    """Bytes and pixels up to the limit pass, one more does not."""
    assert (30, 20) == decode_image(PNG, max_file_bytes=len(PNG), max_pixels=600).size
    for limits in ({"max_file_bytes": len(PNG) - 1}, {"max_pixels": 599}):
        with pytest.raises(UserInputError, match="accepted"):
            decode_image(PNG, **limits)


def test_sixteen_bits_become_eight() -> None:
    """The upper byte of each pixel is kept."""
    deep = np.linspace(0, 65_535, 600).reshape(20, 30).astype(np.uint16)
    decoded = decode_image(encoded(Image.fromarray(deep)))
    assert ("L", True) == (decoded.mode, np.array_equal(deep >> 8, np.asarray(decoded)))


def test_palettes_are_resolved() -> None:
    """A picture of eight colours keeps them."""
    few = Image.fromarray(COLOURS // 128 * 128)
    assert np.array_equal(np.asarray(few), np.asarray(decode_image(encoded(few.quantize(8)))))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """A drawing on a transparent ground is one on white paper."""
    drawing = np.zeros((20, 30, 4), np.uint8)
    drawing[5:15, 10:20, 3] = 255
    decoded = decode_image(encoded(Image.fromarray(drawing).convert(mode)))
    grey = np.asarray(decoded.convert("L"))
    assert (255, 0) == (grey[0, 0], grey[10, 15])
    assert decoded.mode in ("L", "RGB")


def test_a_large_picture_is_whole_again() -> None:
    """Brought into grey or colour strip by strip, it has no seams."""
    page = Image.fromarray(RANDOM.integers(0, 256, (700, 901, 4), np.uint8))
    paper = Image.new("RGBA", page.size, "white")
    for mode, plain in (("RGBA", "RGB"), ("LA", "L")):
        wanted = Image.alpha_composite(paper, page.convert(mode).convert("RGBA")).convert(plain)
        decoded = decode_image(encoded(page.convert(mode)))
        assert (plain, True) == (decoded.mode, np.array_equal(np.asarray(wanted), np.asarray(decoded)))


def test_cmyk_becomes_rgb() -> None:
    """Print colours are shown as on a screen."""
    red = Image.new("CMYK", (20, 20), (0, 255, 255, 0))
    decoded = decode_image(encoded(red, "JPEG", quality=95))
    assert "RGB" == decoded.mode
    assert np.abs(np.asarray(decoded, int) - (255, 0, 0)).max() < 12


def test_one_bit_becomes_grey() -> None:
    """Black and white are 0 and 255."""
    decoded = decode_image(encoded(Image.fromarray(COLOURS).convert("1")))
    assert ("L", {0, 255}) == (decoded.mode, set(np.unique(np.asarray(decoded)).tolist()))


def test_a_photo_is_turned_upright() -> None:
    """The camera's orientation is obeyed."""
    photo = Image.new("RGB", (30, 20))
    photo.paste((255, 255, 255), (0, 0, 15, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    decoded = decode_image(encoded(photo, "JPEG", exif=exif))
    assert (20, 30) == decoded.size
    assert np.asarray(decoded)[3].mean() > 200
    assert np.asarray(decoded)[-3].mean() < 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_obeyed(kind: str, orientation: int) -> None:
    """The eight there are as Pillow turns them; others are none."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(COLOURS), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(upright), np.asarray(decode_image(content)))


@pytest.mark.parametrize(
    "entry", [b"\x82\x9a\0\x05\0\0\0\x01\0\0\x03\xe7", b"\x87\x69\0\x04\0\0\0\x01\0\0\x03\xe7"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
def test_the_orientation_stands_beside_damaged_tags(entry: bytes) -> None:
    """A tag that points behind the end of the EXIF does not hide how the camera was held."""
    turned = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + turned + entry + bytes(4)
    assert (20, 30) == decode_image(encoded(Image.fromarray(COLOURS), "JPEG", exif=exif)).size


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed or left out; the checksums of a PNG are put right again."""
    changed = bytearray(content)
    for _ in range(random.integers(1, 6)):
        place = random.integers(3, min(len(changed), 200))  # where headers and EXIF are
        if random.random() < 0.8:
            changed[place] = random.choice([0, 1, 127, 128, 255])
        else:
            del changed[place : place + random.integers(1, 4)]
    if not content.startswith(b"\x89PNG"):
        return content[:3] + bytes(changed[3:])
    mended, rest = content[:8], bytes(changed[8:])
    while len(rest) >= 12:
        length = min(int.from_bytes(rest[:4]), len(rest) - 12)
        kind, rest = rest[4 : 8 + length], rest[12 + length :]
        mended += struct.pack(">I", length) + kind + struct.pack(">I", zlib.crc32(kind))
    return mended


def outcome(content: bytes) -> str:
    """What comes of a picture: `read`, or why not."""
    try:
        return "read" if decode_image(content).mode in ("L", "RGB") else "of another mode"
    except UserInputError as refused:
        return str(refused)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damage_of_any_kind_gives_an_image_or_a_refusal(kind: str) -> None:
    """400 pictures with EXIF, mutated: never another exception, never the parser's words or their bytes."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = 6, "hello" * 5, {0x9000: b"0220", 0xA002: 3}
    content = encoded(Image.fromarray(COLOURS[:8, :8]), kind, exif=exif)
    random = np.random.default_rng(1)
    told = Counter(outcome(mutated(content, random)) for _ in range(400))
    assert {"read", UNDECODED[1]} <= set(told)
    assert all(message in ("read", UNDECODED[1]) or "pixels, accepted" in message for message in told)


def progressive(scans: int, between: bytes = b"") -> bytes:
    """A progressive JPEG of 10 scans or more: the last one over again, with segments `between`."""
    content = encoded(Image.fromarray(COLOURS), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (between + last) * (scans - 10) + content[-2:]


def segment(content: bytes) -> bytes:
    """A comment of a JPEG."""
    return b"\xff\xfe" + struct.pack(">H", len(content) + 2) + content


HIDING = {
    "plain": b"",
    "behind an end in a comment": segment(b"\xff\xd9"),
    "behind fill bytes": b"\xff" * 9,
    "behind a marker without length": b"\xff\x02\xff\xff",
    "behind a comment of no length": b"\xff\xfe\0\0",
}


@pytest.mark.parametrize("between", HIDING.values(), ids=HIDING)
def test_a_jpeg_has_so_many_scans_and_no_more(between: bytes) -> None:
    """The limit is read; 1,500 scans, which would be unfolded for half a minute, are refused unread."""
    assert (30, 20) == decode_image(progressive(MAX_JPEG_SCANS)).size
    with pytest.raises(UserInputError, match="the picture has 1,500 scans, accepted: up to 32") as caught:
        decode_image(progressive(1_500, between))
    assert "image_dimensions" == caught.value.code


def test_what_only_looks_like_scans_is_not_counted() -> None:
    """Thumbnails before the picture, and a video behind its end, are none of its scans."""
    many = b"\xff\xda\0\x02" * 100
    content = progressive(10)
    assert (30, 20) == decode_image(content[:2] + segment(many) + content[2:] + many).size


def test_an_animation_is_its_first_picture() -> None:
    """Of several frames the first one counts."""
    frames = [Image.new("L", (20, 20), shade) for shade in (10, 200)]
    assert 10 == decode_image(encoded(frames[0], save_all=True, append_images=frames[1:])).getpixel((5, 5))


@pytest.fixture(scope="module", params=[0, 3, 14, 27])
def digit(request: pytest.FixtureRequest) -> np.ndarray:
    """Real handwriting, bright on dark, 140 × 140 with the digit in its middle 100 × 100."""
    small = load_digits().images[request.param] * 255 / 16
    large = Image.fromarray(small.astype(np.uint8)).resize((100, 100), Image.Resampling.BICUBIC)
    drawn = np.asarray(large, int)
    return np.pad(np.clip((drawn - 90) * 3, 0, 255).astype(np.uint8), 20)


def fitted(page: np.ndarray) -> np.ndarray:
    return fit_image(Image.fromarray(page), MNIST, "mnist")[0].astype(float)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two images, at best, with one of them moved by up to a pixel."""
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return max(np.corrcoef(one.ravel(), np.roll(other, shift, (0, 1)).ravel())[0, 1] for shift in shifts)


def on_page(digit: np.ndarray, top: int, left: int, height: int = 400, width: int = 500) -> np.ndarray:
    page = np.zeros((height, width), np.uint8)
    page[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return page


def zoomed(digit: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def specks(page: np.ndarray) -> np.ndarray:
    page = page.copy()
    page[3:6, 3:6] = page[-9:-6, -9:-6] = 200
    return page


REDRAWN = {
    "at the top left": lambda digit: on_page(digit, 0, 0),
    "at the bottom right": lambda digit: on_page(digit, 260, 360),
    "dark on light": lambda digit: 255 - on_page(digit, 30, 200),
    "large": lambda digit: zoomed(digit, 900),
    "small": lambda digit: zoomed(digit, 56),
    "tiny on a large page": lambda digit: 255 - on_page(zoomed(digit, 70), 40, 300),
    "faint": lambda digit: (180 - on_page(digit, 9, 9) * 0.25).astype(np.uint8),
    "with specks": lambda digit: specks(on_page(digit, 100, 100)),
    "on grainy paper": lambda digit: np.clip(
        200 - 0.6 * on_page(digit, 40, 90) + np.random.default_rng(0).normal(0, 8, (400, 500)), 0, 255
    ).astype(np.uint8),
    "in uneven light": lambda digit: ((255 - 0.8 * on_page(digit, 90, 90)) * np.linspace(0.3, 1, 500)).astype(
        np.uint8
    ),
}


@pytest.mark.parametrize("way", REDRAWN)
def test_a_digit_is_recognised_however_it_is_drawn(digit: np.ndarray, way: str) -> None:
    """Place, size, ink, contrast, grain and light do not matter: the result is nearly the same."""
    assert 0.93 < alike(fitted(digit), fitted(REDRAWN[way](digit)))


def test_strokes_follow_mnists_convention(digit: np.ndarray) -> None:
    """Bright on dark, 20 pixels long, the centre of mass in the middle."""
    image = fitted(255 - on_page(digit, 200, 50))
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert 20 == max(np.ptp(rows), np.ptp(columns)) + 1
    assert 255 == image.max()
    assert image.mean() < 80
    for axis in (0, 1):
        assert abs(image.sum(axis=1 - axis) @ np.arange(28) / image.sum() - 14) < 0.7


def test_thick_and_thin_pens_are_read_alike(digit: np.ndarray) -> None:
    """A thin pen is broadened to what the network knows; a thick one stays thick."""
    from scipy import ndimage

    thick = ndimage.grey_dilation(digit, 5)
    thin = np.zeros((160, 160), np.uint8)
    thin[20:140, 80:83] = thin[78:81, 50:120] = 255
    assert 0.8 < alike(fitted(digit), fitted(thick))
    assert fitted(thick).mean() > fitted(digit).mean()
    line = fitted(thin)
    assert 2 <= (line[10] > 128).sum() <= 4


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_page_is_dark(shade: int) -> None:
    """Nothing drawn gives zeros, also on grainy paper."""
    page = np.full((90, 70), shade, int) + RANDOM.integers(-3, 4, (90, 70))
    assert 0 == fitted(np.clip(page, 0, 255).astype(np.uint8)).max()


@pytest.mark.parametrize(("height", "width"), [(300, 40), (40, 300), (1000, 60), (29, 28), (28, 29), (5, 5)])
def test_any_proportions_fit(height: int, width: int) -> None:
    """Strips, near misses and crumbs give an image in shape, with its proportions kept."""
    page = np.zeros((height, width), np.uint8)
    margin = max(1, min(height, width) // 10)
    page[margin:-margin, margin:-margin] = 255
    image = fitted(page)
    rows, columns = (image > 99).any(axis=1).sum(), (image > 99).any(axis=0).sum()
    assert 20 == max(rows, columns)
    wanted = (width - 2 * margin) / (height - 2 * margin)
    assert abs(columns - 20 * min(1, wanted)) < 1.5
    assert abs(rows - 20 * min(1, 1 / wanted)) < 1.5


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("JPEG", "CMYK")])
@pytest.mark.parametrize(("style", "shape"), [("mnist", MNIST), ("photo", (3, 32, 32))])
def test_a_large_picture_may_be_reduced_first(kind: str, mode: str, style: Any, shape: Any) -> None:
    """Unfolded at a fraction of its size it is fitted as the whole would be, within 1 of 255 on the mean."""
    small = Image.fromarray((255 - load_digits().images[3] * 15).astype(np.uint8))
    page = ImageOps.expand(small, 3, 255).resize((3000, 2100), Image.Resampling.BICUBIC).convert(mode)
    content = encoded(page, kind)
    reduced = decode_pixels(
        open_image(content, len(content), 2**24), compute_draft_factors(page.size, shape, style)
    )
    assert max(reduced.size) <= max(page.size) / 2
    whole = fit_image(decode_image(content), shape, style).astype(int)
    assert np.abs(fit_image(reduced, shape, style) - whole).mean() < 1


@pytest.mark.parametrize("size", [(28, 28), (1791, 1791)])
def test_other_pictures_are_not_reduced(size: tuple[int, int]) -> None:
    """Up to 1,791 pixels a side every pixel counts."""
    assert (
        (1, 1) == compute_draft_factors(size, MNIST, "mnist") == compute_draft_factors(size, MNIST, "photo")
    )


@pytest.mark.parametrize("size", [(65_500, 4), (4, 65_500), (2100, 3001)])
@pytest.mark.parametrize("style", ["mnist", "photo"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_any_large_picture_is_reduced_to_something(size: tuple[int, int], style: Any, kind: str) -> None:
    """Lines and odd sides too: the longer one to 896 pixels or up to twice as many."""
    content = encoded(Image.new("L", size, 200), kind)
    picture = open_image(content, len(content), 2**24)
    reduced = decode_pixels(picture, compute_draft_factors(size, MNIST, style)).size
    assert 896 <= max(reduced) < 2 * 896
    assert min(reduced) >= 1


@pytest.mark.parametrize("style", ["mnist", "photo"])
def test_a_picture_in_shape_is_taken_as_it_is(style: Any) -> None:
    """No cropping, no inversion: the pixels that came are the pixels that go."""
    image = RANDOM.integers(0, 256, (28, 28), np.uint8)
    assert np.array_equal(image[None], fit_image(Image.fromarray(image), MNIST, style))
    colour = RANDOM.integers(0, 256, (28, 28, 3), np.uint8)
    assert np.array_equal(colour.transpose(2, 0, 1), fit_image(Image.fromarray(colour), (3, 28, 28), style))
    assert (1, 28, 28) == fit_image(Image.fromarray(colour), MNIST, style).shape
    assert (3, 28, 28) == fit_image(Image.fromarray(image), (3, 28, 28), style).shape


def test_plain_pictures_keep_ground_and_colour() -> None:
    """Resized whole, not inverted, not cropped."""
    photo = np.full((100, 80, 3), 250, np.uint8)
    photo[:50] = (200, 30, 10)
    image = fit_image(Image.fromarray(photo), (3, 32, 32), "photo")
    assert ((3, 32, 32), np.uint8) == (image.shape, image.dtype)
    assert [200, 30, 10] == image[:, 5, 5].tolist()
    assert [250, 250, 250] == image[:, 28, 28].tolist()


def test_many_images_are_reshaped_at_once() -> None:
    """In pieces or one by one, the result is the same; nothing over- or underflows."""
    images = RANDOM.choice([0, 255], (1500, 3, 12, 10)).astype(np.uint8)
    smaller = resize_batch(images, (1, 6, 5))
    assert ((1500, 1, 6, 5), np.uint8) == (smaller.shape, smaller.dtype)
    assert np.array_equal(smaller[1400:1401], resize_batch(images[1400:1401], (1, 6, 5)))
    flat = np.full((2, 1, 8, 8), 255, np.uint8)
    assert (resize_batch(flat, (3, 20, 16)) == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_survives_its_png(channels: int) -> None:
    """What is written as a picture is the image, pixel for pixel."""
    image = RANDOM.integers(0, 256, (channels, 9, 12), dtype=np.uint8)
    pixels = np.asarray(decode_image(encode_png(image)))

    assert np.array_equal(image, pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))
