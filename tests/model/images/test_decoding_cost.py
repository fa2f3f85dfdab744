"""Promises of the limits on decoding: parts are counted exactly, in few steps, and refused in little time."""

import io
import re
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relearn.model.errors import UserInputError
from relearn.model.images.decode import decode_image
from relearn.model.images.decoding_cost import MAX_ELEMENTS
from relearn.model.images.formats import HEADER_BYTES, IMAGE_FORMATS, recognize_format

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)


def encode(image_format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).save(content, image_format, **options)
    return content.getvalue()


PNG, JPEG, TIFF = encode("PNG"), encode("JPEG"), encode("TIFF")
GIF, WEBP, BMP = encode("GIF"), encode("WEBP", lossless=True), encode("BMP")
FILES = {"PNG": PNG, "JPEG": JPEG, "TIFF": TIFF, "GIF": GIF, "WebP": WEBP, "BMP": BMP}


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def segment(marker: int, content: bytes = b"") -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def webp(chunks: bytes) -> bytes:
    header = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\x1d\0\0\x13\0\0"
    content = b"WEBP" + header + WEBP[12:] + chunks
    return b"RIFF" + struct.pack("<I", len(content)) + content


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """Build an uncompressed TIFF of PIXELS with more entries: tag, type, count and value or offset."""
    tags = [
        *[(256, 3, 1, 30), (257, 3, 1, 20), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)],
        *[(273, 4, 1, 500), (277, 3, 1, 1), (278, 3, 1, 20), (279, 4, 1, 600), *entries],
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head.ljust(500, b"\0") + PIXELS.tobytes() + data


def tiled_tiff(width: int, height: int, *entries: tuple[int, int, int, int], kind: int = 4) -> bytes:
    """Build a TIFF of PIXELS in one compressed tile, which is black below and to the right of them."""
    rows = b"".join(row.tobytes().ljust(width, b"\0") for row in PIXELS)
    encoder = zlib.compressobj()
    tile = b"".join(
        [
            encoder.compress(rows),
            *(encoder.compress(bytes(width)) for _ in range(20, height)),
            encoder.flush(),
        ]
    )
    tags = [
        *[(256, 3, 1, 30), (257, 3, 1, 20), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)],
        *[(322, kind, 1, width), (323, kind, 1, height), (324, 4, 1, 500), (325, 4, 1, len(tile)), *entries],
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return head.ljust(500, b"\0") + tile


def png_with(parts: bytes) -> bytes:
    return PNG[:33] + parts + PNG[33:]


def jpeg_with(parts: bytes) -> bytes:
    return JPEG[:2] + parts + JPEG[2:]


def gif_with(blocks: bytes) -> bytes:
    start = 13 + 3 * 2 ** (GIF[10] % 8 + 1)
    return GIF[:start] + blocks + GIF[start:]


TEXT = zlib.compress(bytes(1_000_000), 9)
SCANS = encode("JPEG", progressive=True)
FIRST_SCAN = SCANS.index(b"\xff\xda")
FIRST_SCAN_END = next(re.finditer(rb"\xff[^\0]", SCANS[FIRST_SCAN + 2 :])).start() + FIRST_SCAN + 2
EMPTY_IFD = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"
OWN_PARTS = {  # of the files to which the parts below are added
    "chunks of PNG": PNG.count(b"IDAT") + 2,
    "chunks of WebP": 2,
    "segments": JPEG.count(b"\xff\xdb") + JPEG.count(b"\xff\xc4") + 4,
    "scans": SCANS.count(b"\xff\xda"),
    "tag values": 9,
}
ADDED_PARTS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "chunks of PNG": ("chunks", lambda n: png_with(chunk(b"abCd") * n)),
    "empty pixels of PNG": ("chunks", lambda n: png_with(chunk(b"IDAT") * (n - 3))),
    "compressed texts": ("compressed texts", lambda n: png_with(chunk(b"zTXt", b"a\0\0" + TEXT) * n)),
    "color profiles": ("compressed texts", lambda n: png_with(chunk(b"iCCP", b"a\0\0" + TEXT) * n)),
    "EXIF of PNG": ("bytes of EXIF", lambda n: png_with(chunk(b"eXIf", EMPTY_IFD[6:].ljust(n, b"\0")))),
    "chunks of WebP": ("chunks", lambda n: webp(b"abcd\0\0\0\0" * n)),
    "EXIF of WebP": (
        "bytes of EXIF",
        lambda n: webp(b"EXIF" + struct.pack("<I", n) + EMPTY_IFD[6:].ljust(n + n % 2, b"\0")),
    ),
    "segments": ("segments", lambda n: jpeg_with(segment(0xFE) * n)),
    "fill bytes": ("fill bytes", lambda n: jpeg_with(b"\xff" * n)),
    "bytes between segments": ("fill bytes", lambda n: jpeg_with(segment(0xFE) + b"\0" * n)),
    "restart markers": ("fill bytes", lambda n: jpeg_with(segment(0xFE) + (b"\xff\xd0" * n)[:n])),
    "fill bytes in pixels": ("fill bytes", lambda n: JPEG[:-2] + b"\xff" * n + JPEG[-2:]),
    "scans": (
        "scans",
        lambda n: SCANS[:FIRST_SCAN_END] + SCANS[FIRST_SCAN:FIRST_SCAN_END] * n + SCANS[FIRST_SCAN_END:],
    ),
    "Photoshop's blocks": (
        "blocks",
        lambda n: jpeg_with(
            b"".join(
                segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * min(5_000, n - done))
                for done in range(0, n, 5_000)
            )
        ),
    ),
    "comments of GIF": ("blocks", lambda n: gif_with(b"!\xfe\1a\0" * (n // 2) + b"\0" * (n % 2))),
    "bytes of a comment": ("blocks", lambda n: gif_with(b"!\xfe" + b"\1a" * (n - 1) + b"\0")),
    "tag values": ("tag values", lambda n: tiff((65_000, 4, n, 1_100), data=bytes(4 * n))),
}


@pytest.mark.parametrize("case", ADDED_PARTS)
def test_parts_are_accepted_up_to_the_limit(case: str) -> None:
    """At the limit the image is decoded to its pixels; one part more is refused by its name."""
    name, add_parts = ADDED_PARTS[case]
    limit = MAX_ELEMENTS[name] - OWN_PARTS.get(case, 0)
    spare = 2 if name == "fill bytes" else 0  # bytes before a marker may be counted in pairs
    decoded = np.asarray(decode_image(add_parts(limit - spare)).convert("L"), int)
    assert PIXELS.shape == decoded.shape
    assert np.abs(decoded - PIXELS).mean() < 8
    with pytest.raises(UserInputError, match=rf"more than {MAX_ELEMENTS[name]:,} {name}, accepted") as caught:
        decode_image(add_parts(limit + 1 + spare))
    assert "image_too_complex" == caught.value.code


def test_run_length_encoding_is_bounded() -> None:
    """A BMP with run-length encoding may have up to 2^19 bytes, others any number."""
    header = struct.pack("<IIIIiiHHIIIIII", 0, 0, 1078, 40, 30, 20, 1, 8, 1, 0, 0, 0, 0, 0)
    start = b"BM" + header + bytes(1024)
    decode_image(start + b"\x1e\x07\0\0" * 20 + b"\0\1")
    with pytest.raises(UserInputError, match="more than 524,288 bytes of run-length encoding"):
        decode_image(start + b"\0\2\0\0" * 131_072)
    large = io.BytesIO()
    Image.new("RGB", (500, 500)).save(large, "BMP")
    assert (500, 500) == decode_image(large.getvalue()).size


@pytest.mark.parametrize(("width", "height"), [(32, 32), (256, 256), (1024, 1024), (32, 32_768)])
def test_usual_tiles_are_accepted(width: int, height: int) -> None:
    """An image in a tile that is larger than itself is decoded to its pixels."""
    assert np.array_equal(PIXELS, np.asarray(decode_image(tiled_tiff(width, height))))


@pytest.mark.parametrize(
    "build",
    [
        lambda: tiled_tiff(1_040, 1_024),
        lambda: tiled_tiff(32, 1_000_000),
        lambda: tiled_tiff(32, 32, (322, 4, 1, 16_384)),  # a second width
        lambda: tiled_tiff(32, 32, kind=9),  # other types of numbers
        lambda: tiled_tiff(32, 32, kind=16),
    ],
)
def test_tiles_far_beyond_the_image_are_refused(build: Callable[[], bytes]) -> None:
    """A tile may have 2^20 pixels more than four times the image, in numbers with one reading."""
    with pytest.raises(UserInputError, match="more than 1,048,576 pixels of tiles") as caught:
        decode_image(build())
    assert "image_too_complex" == caught.value.code


MAX_STEPS = 3 * 2**15 + 100


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=8), st.integers(1, 200_000))),
)
def test_counting_takes_few_steps(name: str, insertions: list[tuple[int, bytes, int]]) -> None:
    """Counting ends after few steps for any insertion into a file, repeated any number of times."""
    content = FILES[name]
    for offset, inserted, times in insertions:
        position = min(offset + HEADER_BYTES, len(content))
        content = content[:position] + inserted * min(times, 1_000_000 // len(inserted)) + content[position:]
    count_elements = next(kind.count_elements for kind in IMAGE_FORMATS if kind.name == name)
    totals: dict[str, int] = {}
    for step, (part, count) in enumerate(count_elements(content)):
        assert count >= 0
        totals[part] = totals.get(part, 0) + count
        assert step < MAX_STEPS
        if totals[part] > MAX_ELEMENTS[part]:
            break


COSTLY = {
    "600,000 chunks": lambda: png_with(chunk(b"tEXt") * 600_000),
    "600,000 chunks of pixels": lambda: png_with(chunk(b"IDAT") * 600_000),
    "5,000 color profiles": lambda: png_with(chunk(b"iCCP", b"a\0\0" + TEXT) * 5_000),
    "EXIF of 1.1 million numbers": lambda: png_with(
        chunk(
            b"eXIf", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 274, 5, 1_100_000, 30) + bytes(8_900_000)
        )
    ),
    "1.1 million chunks of WebP": lambda: webp(b"abcd\0\0\0\0" * 1_100_000),
    "2.2 million segments": lambda: jpeg_with(segment(0xFE) * 2_200_000),
    "1 million segments of EXIF": lambda: jpeg_with(segment(0xE1, b"Exif\0\0") * 900_000),
    "9 MB of fill bytes": lambda: jpeg_with(b"\xff" * 9_000_000),
    "9 MB of fill bytes in pixels": lambda: JPEG[:-2] + b"\xff" * 9_000_000 + JPEG[-2:],
    "4.5 million start markers": lambda: jpeg_with(b"\xff\xd8" * 4_500_000),
    "4.5 million restart markers": lambda: jpeg_with(b"\xff\xd0" * 4_500_000),
    "700,000 blocks of Photoshop": lambda: jpeg_with(
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5_000) * 140
    ),
    "1,500 scans": lambda: SCANS[:-2] + SCANS[SCANS.rindex(b"\xff\xda") : -2] * 1_500,
    "4.5 million blocks of GIF": lambda: gif_with(b"!\xfe" + b"\1a" * 4_500_000 + b"\0"),
    "1 million strips": lambda: tiff((273, 4, 1_000_000, 1_100), data=bytes(4_000_000)),
    "a tile of 1 GB": lambda: tiled_tiff(32_768, 32_752),
    "9 MB of run-length encoding": lambda: (
        b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 0, 0, 1078, 40, 4096, 4096, 1, 8, 1, 0, 0, 0, 0, 0)
        + b"\1\1" * 4_500_000
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COSTLY)
def test_costly_image_is_refused_at_once(case: str) -> None:
    """Files of up to 10 MB that would hold a decoder for seconds are refused within 0.2 s of CPU time."""
    content = COSTLY[case]()
    assert recognize_format(content[:HEADER_BYTES])
    start = time.process_time()
    with pytest.raises(UserInputError, match="more than"):
        decode_image(content)
    assert time.process_time() - start < 0.2
