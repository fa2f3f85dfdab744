import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relearn.model.errors import UserInputError
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.image_files import parse_base64_images, parse_image, parse_images
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse import parse_body, parse_json, parse_raw

GREY = InputSpec((1, 28, 28), "mnist", max_images=4)
COLOUR = InputSpec((3, 8, 10), "plain", max_images=4)


def body(images: Any) -> bytes:
    return json.dumps({"images": images}).encode()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (1, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    "form",
    [(784,), (28, 28), (1, 28, 28), (1, 784), (1, 1, 28, 28)],
    ids=["flat", "rows", "channels", "a list of flat", "a list of nested"],
)
def test_one_image_in_any_form_is_the_same_image(image: np.ndarray, form: tuple[int, ...]):
    """How the numbers are nested makes no difference."""
    assert np.array_equal(image[np.newaxis], parse_json(body(image.reshape(form).tolist()), GREY))


def test_several_images_keep_their_order(image: np.ndarray):
    """The n-th image in is the n-th image out."""
    several = np.stack([image, 255 - image, image // 2])

    assert np.array_equal(several, parse_json(body(several.reshape(3, 784).tolist()), GREY))
    assert np.array_equal(several, parse_json(body(several[:, 0].tolist()), GREY))


def test_a_colour_image_is_flat_or_by_channel():
    """Three channels of rows are one image, not three grey ones."""
    image = np.random.default_rng(2).integers(0, 256, (3, 8, 10), dtype=np.uint8)

    assert np.array_equal(image[np.newaxis], parse_json(body(image.tolist()), COLOUR))
    assert np.array_equal(image[np.newaxis], parse_json(body(image.ravel().tolist()), COLOUR))
    with pytest.raises(UserInputError, match="accepted: one image or several, each of 240 or 3 × 8 × 10"):
        parse_json(body(image[0].tolist()), COLOUR)


def test_whole_numbers_written_as_floats_are_taken(image: np.ndarray):
    """Lists made from float arrays say 12.0; that is 12."""
    assert np.array_equal(image[np.newaxis], parse_json(body(image.astype(float).tolist()), GREY))


FLAT = [0] * 784
ROWS = [[0] * 28] * 28
DEEP = b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("content", "status", "code", "message"),
    [
        (b"{}", 422, "missing_field", "images"),
        (b"null", 422, "wrong_type", "an object"),
        (b"[]", 422, "wrong_type", "an object"),
        (b'"x"', 422, "wrong_type", "an object"),
        (b"5", 422, "wrong_type", "an object"),
        (b'{"images": 5}', 422, "wrong_type", "images: got neither list nor text"),
        (b'{"images": {}}', 422, "wrong_type", "images: got neither list nor text"),
        (b'{"images": [1', 400, "invalid_json", "byte 13"),
        (body(FLAT) + b" {}", 400, "invalid_json", "byte"),
        (body(FLAT)[:-1] + b', "top": 3}', 422, "unknown_field", "images"),
        (b'\xff{"images": [1]}', 400, "invalid_encoding", "byte 0"),
        (b"\xff", 400, "invalid_encoding", "byte 0"),
        (b'"\xff"', 400, "invalid_encoding", "byte 1"),
        (b'{"images": "\xff"}', 400, "invalid_encoding", "byte 12"),
        (b'{"\xff": 1}', 400, "invalid_encoding", "byte 2"),
        (b'{"images": [1], ' + body(FLAT)[1:], 400, "duplicate_key", "twice"),
        (b'{"im\\u0061ges": [1], ' + body(FLAT)[1:] + b"\n ", 400, "duplicate_key", "twice"),
        (b'\xef\xbb\xbf{"images": [1]}', 400, "invalid_json", "byte 0"),
        (b'{"images": [NaN]}', 400, "non_finite", "byte 12"),
        (b'{"images": [1, -Infinity]}', 400, "non_finite", "byte"),
        (b'{"images": [0, 1e400]}', 422, "non_finite", r"images\[1\]"),
        (body([256, *FLAT[1:]]), 422, "out_of_range", r"images\[0\]: got 256"),
        (body([FLAT, [*FLAT[1:], -1]]), 422, "out_of_range", r"images\[1\]\[783\]: got -1"),
        (body([1e30]), 422, "out_of_range", r"images\[0\]: got 1e\+30"),
        (body([10**400]), 422, "out_of_range", r"images\[0\]"),
        (b'{"images": [' + b"1" * 5000 + b"]}", 422, "out_of_range", r"images\[0\]: got a longer number"),
        (b'{"images": [[0, -' + b"1" * 5000 + b"]]}", 422, "out_of_range", r"images\[0\]\[1\]: got a longer"),
        (body([0.5, *FLAT[1:]]), 422, "not_whole", r"images\[0\]: got 0.5, .* not scaled"),
        (
            body(["12"]),
            422,
            "wrong_type",
            r"images\[0\]: got another text, accepted: base64 of a PNG or JPEG",
        ),
        (body("/etc/passwd"), 422, "wrong_type", r"images\[0\]: got another text"),
        (body(["http://127.0.0.1:1/x.png"]), 422, "wrong_type", r"images\[0\]: got another text"),
        (body(["R0lGODlh"]), 415, "unsupported_image", r"images\[0\]: the image is neither PNG nor JPEG"),
        (body(["", 1]), 422, "wrong_type", r"images\[1\]: texts and numbers are mixed"),
        (body([[*FLAT[1:], "12"]]), 422, "wrong_type", r"images\[0\]\[783\]: got str"),
        (body([0, True]), 422, "wrong_type", r"images\[1\]: got bool"),
        (body([None]), 422, "wrong_type", r"images\[0\]: got null"),
        (body([0.5, None]), 422, "wrong_type", r"images\[1\]: got null"),
        (body(FLAT[1:]), 422, "wrong_shape", "got 783, accepted: one image or several, each of 784"),
        (body([FLAT, [*FLAT, 0]]), 422, "wrong_shape", r"images\[1\]: got 785"),
        (body([ROWS[1:]]), 422, "wrong_shape", "got 1 × 27 × 28"),
        (body([ROWS, ROWS[1:]]), 422, "wrong_shape", r"images\[1\]: got 27 × 28"),
        (body([[*ROWS[1:], [0] * 29]]), 422, "wrong_shape", r"images\[0\]: got rows of unequal length"),
        (
            body([*ROWS[:7], [0] * 8, *ROWS[8:]]),
            422,
            "wrong_shape",
            r"images\[7\]: got 8 where others have 28,",
        ),
        (body([[0] * 8, *ROWS[1:]]), 422, "wrong_shape", r"images\[0\]: got 8 where others have 28,"),
        (body([FLAT, FLAT[1:], FLAT]), 422, "wrong_shape", r"images\[1\]: got 783 where others have 784,"),
        (body([[1], [1, 2]]), 422, "wrong_shape", r"images\[0\]: got 1, accepted"),
        (body(np.zeros((28, 28, 3), int).tolist()), 422, "wrong_shape", "got 28 × 28 × 3"),
        (body([FLAT, 1]), 422, "wrong_shape", r"images\[1\]: lists and numbers are mixed"),
        (body([[[[[1]]]]]), 422, "wrong_shape", "5 deep"),
        (body([]), 422, "empty_batch", "images: got none"),
        (body([FLAT] * 5), 413, "batch_too_large", "got 5, accepted: up to 4"),
        (body(["AAAA"] * 5), 413, "batch_too_large", "got 5, accepted: up to 4"),
        (body([[0] * 800] * 4), 413, "batch_too_large", "got 3200 numbers, accepted: up to 4 images of 784"),
        (body([[[[]]]] * 1100), 422, "wrong_shape", "images: got 3301 lists, accepted"),
        (DEEP, 400, "too_deep", "nested too deeply"),
    ],
)
def test_a_body_that_is_no_batch_of_images_is_refused_by_name(
    content: bytes, status: int, code: str, message: str
):
    """Status, code and message say what was wrong, where, and what is accepted."""
    with pytest.raises(UserInputError, match=message) as refused:
        parse_json(content, GREY)

    assert (status, code) == (refused.value.http_status, refused.value.code)


def test_a_picture_in_the_right_size_is_taken_as_it_is(image: np.ndarray, encoded: Callable[..., bytes]):
    """PNG keeps every value, and nothing is moved or inverted."""
    assert np.array_equal(image[np.newaxis], parse_image(encoded(image), GREY))


def test_a_picture_of_another_size_is_fitted(encoded: Callable[..., bytes]):
    """A dark stroke on white paper becomes a bright one on dark ground, in the middle."""
    page = np.full((1, 200, 120), 255, np.uint8)
    page[0, 20:120, 20:30] = 0

    fitted = parse_image(encoded(page, "JPEG"), GREY)

    assert (1, 1, 28, 28) == fitted.shape
    assert 0 == fitted[0, 0, 0, 0]
    assert fitted[0, 0, 14, 13:15].max() > 200


@pytest.mark.parametrize("content", [b"GIF89a" + bytes(50), b"<svg/>", b"http://127.0.0.1/", b"%!PS"])
def test_anything_but_png_and_jpeg_is_refused_unread(content: bytes):
    """The first bytes decide, whatever the client calls it."""
    with pytest.raises(UserInputError) as refused:
        parse_image(content, GREY)

    assert (415, "unsupported_image") == (refused.value.http_status, refused.value.code)


@pytest.fixture
def pictures(image: np.ndarray, encoded: Callable[..., bytes]) -> list[bytes]:
    """Three different files."""
    return [encoded(image), encoded(255 - image), encoded(image // 2)]


def test_raw_bytes_are_the_pixels(image: np.ndarray):
    """One image or several, in order, and nothing around them."""
    several = np.stack([image, 255 - image, image // 2])

    assert np.array_equal(several[:1], parse_raw(image.tobytes(), GREY))
    assert np.array_equal(several, parse_raw(several.tobytes(), GREY))


@pytest.mark.parametrize(
    ("length", "status", "code", "message"),
    [
        (783, 422, "wrong_shape", "got 783 bytes, accepted: 784 for each image of 1 × 28 × 28"),
        (785, 422, "wrong_shape", "got 785 bytes"),
        (5 * 784, 413, "batch_too_large", "got 5, accepted: up to 4"),
    ],
)
def test_raw_bytes_that_are_no_images_are_refused(length: int, status: int, code: str, message: str):
    """A length that leaves a rest is no batch."""
    with pytest.raises(UserInputError, match=message) as refused:
        parse_raw(bytes(length), GREY)

    assert (status, code) == (refused.value.http_status, refused.value.code)


def test_base64_is_its_file(image: np.ndarray, pictures: list[bytes]):
    """Alone or in a list, in order."""
    texts = [base64.b64encode(picture).decode() for picture in pictures]

    assert np.array_equal(image[np.newaxis], parse_json(body(texts[0]), GREY))
    assert np.array_equal(np.stack([image, 255 - image, image // 2]), parse_json(body(texts), GREY))


def test_many_small_files_do_not_unfold_to_more_than_one(encoded: Callable[..., bytes]):
    """The pixels of a request are counted together: two files of 9 million are one too many."""
    half = encoded(np.zeros((1, 3000, 3000), np.uint8))

    with pytest.raises(UserInputError, match=r"b: the image has 3000 × 3000 pixels") as refused:
        parse_images({"a": half, "b": half}, GREY)

    assert (422, "image_dimensions") == (refused.value.http_status, refused.value.code)


IN_MEMORY = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from relearn.model.errors import UserInputError
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.parse import parse_body

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def ask(arguments):
    media_type, file = arguments
    try:
        parse_body(MediaType(media_type, {}), Path(file).read_bytes(), InputSpec((1, 28, 28), "mnist", 256))
    except UserInputError as refused:
        return refused.code
    return "read"

asked = list(zip(sys.argv[1::2], sys.argv[2::2]))
ask(asked[0])
before = most()
with ThreadPoolExecutor(2) as threads:
    print(*threads.map(ask, asked[1:]), round(most() - before))
"""


def read_in_memory(folder: Path, media_type: str, first: bytes, *bodies: bytes) -> tuple[list[str], int]:
    """Read bodies by two threads after a `first` one; what came of them, and the most megabytes they took."""
    arguments = []
    for index, content in enumerate((first, *bodies)):
        (folder / str(index)).write_bytes(content)
        arguments += [media_type, str(folder / str(index))]
    done = subprocess.run(
        [sys.executable, "-c", IN_MEMORY, *arguments], capture_output=True, text=True, check=True
    )
    *told, memory = done.stdout.split()
    return told, int(memory)


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [("RGBA", "PNG", {}), ("LA", "PNG", {}), ("P", "PNG", {"transparency": 0}), ("CMYK", "JPEG", {})],
)
def test_pictures_of_the_largest_size_take_little_memory(
    tmp_path: Path, encoded: Callable[..., bytes], mode: str, kind: str, options: dict[str, Any]
):
    """Six of them, by two threads: 64 MB for each, one after the other, and 64 that the C library keeps."""
    content = io.BytesIO()
    Image.new(mode, (4096, 4096), 200 if mode == "P" else None).save(content, kind, **options)
    small = encoded(np.zeros((1, 200, 200), np.uint8))

    told, memory = read_in_memory(tmp_path, "image/png", small, *[content.getvalue()] * 6)

    assert ["read"] * 6 == told
    assert memory < 160


@pytest.mark.parametrize(
    ("piece", "code"),
    [(b"0,", "batch_too_large"), (b"[[]],", "batch_too_large"), (b'"AA",', "batch_too_large")],
    ids=["numbers", "lists", "texts"],
)
def test_a_body_of_too_many_pieces_takes_little_memory(tmp_path: Path, piece: bytes, code: str):
    """Four of 10 MB, as lists up to 750 MB each, are refused in 70 MB: a few copies of two of them."""
    content = b'{"images":[' + piece * (9_900_000 // len(piece)) + piece[:-1] + b"]}"

    told, memory = read_in_memory(tmp_path, "application/json", body(FLAT), *[content] * 4)

    assert [code] * 4 == told
    assert memory < 70


def test_an_empty_text_is_no_picture():
    """It is base64 of nothing, and nothing is no PNG."""
    with pytest.raises(UserInputError, match=r"images\[0\]: the image is neither PNG nor JPEG"):
        parse_base64_images([""], GREY)


def form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> bytes:
    """A form of (Content-Disposition, content)."""
    lines = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n"
        % (boundary.encode(), about.encode(), content)
        for about, content in parts
    )
    return lines + b"--%b--\r\n" % boundary.encode()


def read_form(content: bytes, boundary: str = "b0undary") -> np.ndarray:
    return parse_body(MediaType("multipart/form-data", {"boundary": boundary}), content, GREY)


def test_the_files_of_a_form_are_its_images(image: np.ndarray, pictures: list[bytes]):
    """In order, whatever their fields are called."""
    names = (
        'name="file"; filename="x.png"',
        'name="file"; filename="../../y"',
        'name="z"\r\nContent-Type: image/png',
    )

    assert np.array_equal(
        np.stack([image, 255 - image, image // 2]), read_form(form(*zip(names, pictures, strict=True)))
    )


PART = 'name="f"; filename="x.png"'


@pytest.mark.parametrize(
    ("content", "boundary", "status", "code"),
    [
        (form(), "b0undary", 422, "empty_batch"),
        (form((PART, b"x")), "", 400, "invalid_multipart"),
        (form((PART, b"x")), "other", 400, "invalid_multipart"),
        (form((PART, b"x")), "x" * 300, 400, "invalid_multipart"),
        (form((PART, b"x"))[:-20], "b0undary", 400, "invalid_multipart"),
        (b"preamble" * 1000 + form((PART, b"x")), "b0undary", 400, "invalid_multipart"),
        (form((PART + "; x=" + "y" * 10_000, b"x")), "b0undary", 400, "invalid_multipart"),
        (form(('filename="x.png"', b"x")), "b0undary", 400, "invalid_multipart"),
        (form(('name="f"', b"http://127.0.0.1:1/x.png")), "b0undary", 422, "wrong_type"),
        (form(('name="f"', b"/etc/passwd")), "b0undary", 422, "wrong_type"),
        (form((PART, b"http://127.0.0.1:1/x.png")), "b0undary", 415, "unsupported_image"),
        (form(*[(PART, b"x")] * 5), "b0undary", 413, "batch_too_large"),
    ],
)
def test_a_form_without_pictures_is_refused_by_name(content: bytes, boundary: str, status: int, code: str):
    """Parts that cannot be told apart, texts, other files, too many."""
    with pytest.raises(UserInputError) as refused:
        read_form(content, boundary)

    assert (status, code) == (refused.value.http_status, refused.value.code)
