"""JSON bodies: numbers, base64 files and every kind of invalid JSON."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from relearn.model.errors import UserInputError
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_json import parse_json

GRAY_SPEC = InputSpec((1, 28, 28), "mnist", max_images=4)
COLOR_SPEC = InputSpec((3, 8, 10), "photo", max_images=4)


def json_body(images: Any) -> bytes:
    return json.dumps({"images": images}).encode()


@pytest.mark.parametrize(
    "shape",
    [(784,), (28, 28), (1, 28, 28), (1, 784), (1, 1, 28, 28)],
    ids=["flat", "rows", "channels", "a list of flat", "a list of nested"],
)
def test_image_is_parsed_in_any_nesting(image: np.ndarray, shape: tuple[int, ...]):
    """Flat and nested numbers are parsed to the same image."""
    assert np.array_equal(image[np.newaxis], parse_json(json_body(image.reshape(shape).tolist()), GRAY_SPEC))


def test_batch_keeps_its_order(image: np.ndarray):
    """The images of a batch are parsed in their order."""
    batch = np.stack([image, image.transpose(0, 2, 1), image // 2])

    assert np.array_equal(batch, parse_json(json_body(batch.reshape(3, 784).tolist()), GRAY_SPEC))
    assert np.array_equal(batch, parse_json(json_body(batch[:, 0].tolist()), GRAY_SPEC))


def test_color_image_is_flat_or_by_channel():
    """Three channels are one color image, not three grayscale ones."""
    image = np.random.default_rng(2).integers(0, 256, (3, 8, 10), dtype=np.uint8)

    assert np.array_equal(image[np.newaxis], parse_json(json_body(image.tolist()), COLOR_SPEC))
    assert np.array_equal(image[np.newaxis], parse_json(json_body(image.ravel().tolist()), COLOR_SPEC))
    with pytest.raises(UserInputError, match="accepted: one image or several, each of 240 or 3 × 8 × 10"):
        parse_json(json_body(image[0].tolist()), COLOR_SPEC)


def test_integers_written_as_floats_are_accepted(image: np.ndarray):
    """12.0, as in lists made from float arrays, is parsed as 12."""
    assert np.array_equal(image[np.newaxis], parse_json(json_body(image.astype(float).tolist()), GRAY_SPEC))


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
        (b'{"images": 5}', 422, "wrong_type", "images: got neither list nor string"),
        (b'{"images": {}}', 422, "wrong_type", "images: got neither list nor string"),
        (b'{"images": [1', 400, "invalid_json", "byte 13"),
        (json_body(FLAT) + b" {}", 400, "invalid_json", "byte"),
        (
            json_body(FLAT)[:-1] + b', "top": 3}',
            422,
            "unknown_field",
            "got another member",
        ),
        (json_body(FLAT)[:-1] + b', "scale": 2}', 422, "out_of_range", "scale: .* accepted: 1 or 255"),
        (json_body(FLAT)[:-1] + b', "scale": true}', 422, "out_of_range", "scale: .* accepted: 1 or 255"),
        (json_body(FLAT)[:-1] + b', "scale": 1, "scale": 1}', 400, "duplicate_key", "twice"),
        (b'\xff{"images": [1]}', 400, "invalid_encoding", "byte 0"),
        (b"\xff", 400, "invalid_encoding", "byte 0"),
        (b'"\xff"', 400, "invalid_encoding", "byte 1"),
        (b'{"images": "\xff"}', 400, "invalid_encoding", "byte 12"),
        (b'{"\xff": 1}', 400, "invalid_encoding", "byte 2"),
        (b'{"images": [1], ' + json_body(FLAT)[1:], 400, "duplicate_key", "twice"),
        (b'{"im\\u0061ges": [1], ' + json_body(FLAT)[1:] + b"\n ", 400, "duplicate_key", "twice"),
        (b'{"images": [NaN]}', 400, "non_finite", "byte 12"),
        (b'{"images": [1, -Infinity]}', 400, "non_finite", "byte"),
        (b'{"images": [0, 1e400]}', 422, "non_finite", r"images\[1\]"),
        (json_body([256, *FLAT[1:]]), 422, "out_of_range", r"images\[0\]: got 256"),
        (json_body([FLAT, [*FLAT[1:], -1]]), 422, "out_of_range", r"images\[1\]\[783\]: got -1"),
        (json_body([1e30]), 422, "out_of_range", r"images\[0\]: got 1e\+30"),
        (json_body([10**400]), 422, "non_finite", r"images\[0\]: got a number that is too large"),
        (
            b'{"images": [' + b"1" * 5000 + b"]}",
            422,
            "non_finite",
            r"images\[0\]: got a number that is too large",
        ),
        (
            b'{"images": [[0, -' + b"1" * 5000 + b"]]}",
            422,
            "non_finite",
            r"images\[0\]\[1\]: got a number that is too large",
        ),
        (json_body([0.5, 2, *FLAT[2:]]), 422, "not_whole", r"images\[0\]: got 0.5, accepted: integers 0–255"),
        (json_body([0.5, *FLAT[1:]]), 422, "ambiguous_scale", 'two readings, .* "scale": 1 .* "scale": 255'),
        (
            json_body(["12"]),
            422,
            "wrong_type",
            r"images\[0\]: got another string, accepted: base64 of a PNG, JPEG, WebP, ",
        ),
        (json_body("/etc/passwd"), 422, "wrong_type", r"images\[0\]: got another string"),
        (json_body(["http://127.0.0.1:1/x.png"]), 422, "wrong_type", r"images\[0\]: got a URL, which is not"),
        (
            json_body(["OEJQUwAB" * 8]),
            415,
            "unsupported_image",
            r"images\[0\]: the image is not PNG, JPEG, WebP, BMP, TIFF or GIF",
        ),
        (json_body(["", 1]), 422, "wrong_type", r"images\[1\]: got strings mixed with numbers"),
        (json_body([[*FLAT[1:], "12"]]), 422, "wrong_type", r"images\[0\]\[783\]: got a string"),
        (json_body([0, True]), 422, "wrong_type", r"images\[1\]: got a boolean"),
        (json_body([None]), 422, "wrong_type", r"images\[0\]: got null"),
        (json_body([0.5, None]), 422, "wrong_type", r"images\[1\]: got null"),
        (json_body(FLAT[1:]), 422, "wrong_shape", "got 783, accepted: one image or several, each of 784"),
        (json_body([FLAT, [*FLAT, 0]]), 422, "wrong_shape", r"images\[1\]: got 785"),
        (json_body([ROWS[1:]]), 422, "wrong_shape", "got 1 × 27 × 28"),
        (json_body([ROWS, ROWS[1:]]), 422, "wrong_shape", r"images\[1\]: got 27 × 28"),
        (json_body([[*ROWS[1:], [0] * 29]]), 422, "wrong_shape", r"images\[0\]: got rows of unequal length"),
        (
            json_body([*ROWS[:7], [0] * 8, *ROWS[8:]]),
            422,
            "wrong_shape",
            r"images\[7\]: got 8 where others have 28,",
        ),
        (json_body([[0] * 8, *ROWS[1:]]), 422, "wrong_shape", r"images\[0\]: got 8 where others have 28,"),
        (
            json_body([FLAT, FLAT[1:], FLAT]),
            422,
            "wrong_shape",
            r"images\[1\]: got 783 where others have 784,",
        ),
        (json_body([[1], [1, 2]]), 422, "wrong_shape", r"images\[0\]: got 1, accepted"),
        (json_body(np.zeros((28, 28, 3), int).tolist()), 422, "wrong_shape", "got 28 × 28 × 3"),
        (json_body([FLAT, 1]), 422, "wrong_shape", r"images\[1\]: got lists mixed with numbers"),
        (json_body([[[[[1]]]]]), 422, "wrong_shape", "got lists nested 5 deep"),
        (json_body([]), 422, "empty_batch", "images: got none"),
        (json_body([FLAT] * 5), 413, "batch_too_large", "got 5, accepted: up to 4"),
        (json_body(["AAAA"] * 5), 413, "batch_too_large", "got 5, accepted: up to 4"),
        (
            json_body([[0] * 800] * 4),
            413,
            "batch_too_large",
            "got 3200 numbers, accepted: up to 4 images of 784",
        ),
        (json_body([[[[]]]] * 1100), 422, "wrong_shape", "images: got 3301 lists, accepted"),
        (DEEP, 400, "too_deep", "nested too deeply"),
    ],
)
def test_invalid_json_body_is_rejected_by_name(content: bytes, status: int, code: str, message: str):
    """Status, code and message say what is wrong, where, and what is accepted."""
    with pytest.raises(UserInputError, match=message) as error_info:
        parse_json(content, GRAY_SPEC)

    assert (status, code) == (error_info.value.http_status, error_info.value.code)


def test_base64_files_are_parsed(image: np.ndarray, image_files: list[bytes]):
    """Base64 files are parsed alone or in a list, in order."""
    texts = [base64.b64encode(file).decode() for file in image_files]

    assert np.array_equal(image[np.newaxis], parse_json(json_body(texts[0]), GRAY_SPEC))
    assert np.array_equal(
        np.stack([image, image.transpose(0, 2, 1), image // 2]), parse_json(json_body(texts), GRAY_SPEC)
    )
