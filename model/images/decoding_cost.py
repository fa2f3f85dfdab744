"""Limits on what an image file may cost its decoder besides the pixels: the number of its elements.

A decoder spends time on each element of a file: 600,000 empty chunks of a PNG take 1.2 s, 2.2 million empty
segments of a JPEG 3 s. The elements are counted before decoding. Counting ends at the limit and skips what an
element contains, so it takes at most 0.11 s for a file of 10 MB.
"""

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator

from relearn.model.errors import UserInputError

Elements = Iterator[tuple[str, int]]
"""Names of elements, each with a number to add to the number of such elements."""

# At each limit the decoder takes less than 0.2 s for these elements. Usual files have far fewer.
MAX_ELEMENTS = {
    "chunks": 2**15,  # of PNG and WebP; 64 MB in PNG chunks of 8 kB, the usual size, are 8,192
    "compressed texts": 64,  # of PNG; each expands to 1 MB, at which Pillow stops
    "segments": 300,  # of JPEG; the largest color profile has 255
    # Each scan of a progressive JPEG costs a pass over all pixels: 22 ms at 4096 × 4096. Encoders write 10
    # for color and up to 24 for CMYK. A scan may take few bytes: 115 kB hold 1,500.
    "scans": 32,
    "fill bytes": 2**16,  # of JPEG; between its segments
    "blocks": 2**15,  # of GIF, before its first frame, and of Photoshop's data in JPEG
    "tag values": 2**15,  # of TIFF; among them two for each strip
    # Of TIFF, whose tiles are decoded whole. Those that are no larger than the image cover less than four
    # times its pixels; one of 1 GB, in a file of 1 MB for 32 × 32 pixels, would take 9 s.
    "pixels of tiles beyond four times the image": 2**20,
    "bytes of EXIF": 2**20,
    "bytes of run-length encoding": 2**19,  # of BMP, which Pillow decodes in Python
}
# Markers that a decoder obeys; excludes 0xFF00 (a byte of pixels), fill bytes and restart markers.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_START, _END, _SCAN, _EXIF, _PHOTOSHOP = 0xD8, 0xD9, 0xDA, 0xE1, 0xED
_SUBDIRECTORIES = {34_665, 34_853, 40_965}  # EXIF, GPS, interoperability
_BYTE_TYPES = {1, 2, 6, 7}  # bytes and texts, which are read at once
_SHORT, _LONG = 3, 4
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323


def check_cost(content: bytes, count_elements: Callable[[bytes], Elements]) -> None:
    """Raise UserInputError `image_too_complex` for a file with more elements than `MAX_ELEMENTS`."""
    counts = Counter[str]()
    for name, count in count_elements(content):
        counts[name] += count
        limit = MAX_ELEMENTS[name]
        if counts[name] > limit:
            raise UserInputError(
                f"the image has more than {limit:,} {name}, accepted: up to {limit:,}",
                "image_too_complex",
            )


def count_png_elements(content: bytes) -> Elements:
    """Count the chunks of a PNG up to its end chunk."""
    position, kind = 8, b""
    while position < len(content) and kind != b"IEND":
        length, kind = int.from_bytes(content[position : position + 4]), content[position + 4 : position + 8]
        position += 12 + length
        yield "chunks", 1
        yield "compressed texts", kind in (b"zTXt", b"iTXt", b"iCCP")
        yield "bytes of EXIF", length * (kind == b"eXIf")


def count_webp_elements(content: bytes) -> Elements:
    """Count the chunks of a WebP."""
    position = 12
    while position < len(content):
        kind = content[position : position + 4]
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
        yield "chunks", 1
        yield "bytes of EXIF", length * (kind == b"EXIF")


def count_jpeg_elements(content: bytes) -> Elements:
    """Count the segments of a JPEG up to its end marker.

    Segments are skipped by their length, as a decoder skips them: a camera's thumbnail has scans too, and
    so may data behind the end of the image, such as a video.
    """
    position, marker = 2, _START
    while marker != _END and position < len(content):
        match = _MARKER.search(content, position)
        gap_end = match.start() if match else len(content)
        is_scan = marker == _SCAN  # its pixels follow; they contain no two 0xFF in sequence
        yield (
            "fill bytes",
            2 * content.count(b"\xff\xff", position, gap_end) if is_scan else gap_end - position,
        )
        if not match:
            return
        marker, position = match[1][0], match.end()
        yield "segments", 1
        yield "scans", marker == _SCAN
        if marker != _START:  # the only marker without a length
            length = max(2, int.from_bytes(content[position : position + 2]))
            if marker == _EXIF and content.startswith(b"Exif", position + 2):
                yield "bytes of EXIF", length
            if marker == _PHOTOSHOP:
                yield "blocks", content.count(b"8BIM", position, position + length)
            position += length


def count_gif_elements(content: bytes) -> Elements:
    """Count the blocks of a GIF before its first frame."""
    flags = content[10] if len(content) > 10 else 0
    position = 13 + (flags >> 7) * 3 * 2 ** (flags % 8 + 1)  # after the palette
    while content[position : position + 1] not in (b"", b",", b";"):
        is_extension = content[position] == ord("!")
        position += 1 + is_extension
        yield "blocks", 1
        while is_extension and (size := int.from_bytes(content[position : position + 1])):
            position += 1 + size
            yield "blocks", 1
        position += is_extension  # the empty block at its end


def count_tiff_elements(content: bytes) -> Elements:
    """Count the values in the first directory of a TIFF and in those of its EXIF, and the pixels of tiles."""
    sides, is_clear = dict[int, int](), True
    order = "<" if content.startswith(b"II") else ">"
    offsets = [offset for (offset,) in struct.iter_unpack(f"{order}I", content[4:8].ljust(4, b"\0"))]
    while offsets:
        start = offsets.pop()
        (length,) = struct.unpack(f"{order}H", content[start : start + 2].ljust(2, b"\0"))
        entries = content[start + 2 : start + 2 + 12 * length]
        for tag, kind, count, value in struct.iter_unpack(f"{order}HHII", entries[: len(entries) // 12 * 12]):
            yield "tag values", 1 if kind in _BYTE_TYPES else max(1, count)
            if tag in _SUBDIRECTORIES:
                offsets.append(value)
            elif tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT):
                short = struct.unpack(f"{order}HH", struct.pack(f"{order}I", value))[0]
                side = short if kind == _SHORT else value
                # Decoders differ in which of two values they take, and in other types that they read.
                is_clear &= kind in (_SHORT, _LONG) and count == 1 and side > 0 and tag not in sides
                sides[tag] = side
    if _TILE_WIDTH in sides or _TILE_HEIGHT in sides:
        padding = 2**32
        if is_clear and len(sides) == 4:
            width, height, tile_width, tile_height = (sides[tag] for tag in sorted(sides))
            tiles = -(-width // tile_width) * -(-height // tile_height)
            padding = max(0, tiles * tile_width * tile_height - 4 * width * height)
        yield "pixels of tiles beyond four times the image", padding


def count_bmp_elements(content: bytes) -> Elements:
    """Count the bytes of a BMP with run-length encoding."""
    header_size, compression = content[14:18], int.from_bytes(content[30:34], "little")
    if header_size != struct.pack("<I", 12) and compression in (1, 2):
        yield "bytes of run-length encoding", len(content)
