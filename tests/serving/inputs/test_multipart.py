"""Multipart forms of image files."""

import numpy as np
import pytest

from relearn.model.errors import UserInputError
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.multipart import parse_multipart

GRAY_SPEC = InputSpec((1, 28, 28), "mnist", max_images=4)


def build_form(*parts: tuple[str, bytes], boundary: str = "b0undary") -> bytes:
    """Build a form from pairs of Content-Disposition and content."""
    lines = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n"
        % (boundary.encode(), disposition.encode(), content)
        for disposition, content in parts
    )
    return lines + b"--%b--\r\n" % boundary.encode()


def parse_form(content: bytes, boundary: str = "b0undary") -> np.ndarray:
    return parse_multipart(content, GRAY_SPEC, boundary)


def test_form_files_are_parsed(image: np.ndarray, image_files: list[bytes]):
    """The files of a form are parsed in order, whatever their field names."""
    names = (
        'name="file"; filename="x.png"',
        'name="file"; filename="../../y"',
        'name="z"\r\nContent-Type: image/png',
        "name=\"f\"; filename*=UTF-8''%e2%82%ac.png",  # as older clients name a file that is not ASCII
    )

    assert np.array_equal(
        np.stack([image, image.transpose(0, 2, 1), image // 2, image]),
        parse_form(build_form(*zip(names, [*image_files, image_files[0]], strict=True))),
    )


FILE_PART = 'name="f"; filename="x.png"'


@pytest.mark.parametrize(
    ("content", "boundary", "status", "code"),
    [
        (build_form(), "b0undary", 422, "empty_batch"),
        (build_form((FILE_PART, b"x")), "", 400, "invalid_multipart"),
        (build_form((FILE_PART, b"x")), "other", 400, "invalid_multipart"),
        (build_form((FILE_PART, b"x")), "x" * 300, 400, "invalid_multipart"),
        (build_form((FILE_PART, b"x"))[:-20], "b0undary", 400, "invalid_multipart"),
        (b"preamble" * 1000 + build_form((FILE_PART, b"x")), "b0undary", 400, "invalid_multipart"),
        (build_form((FILE_PART + "; x=" + "y" * 10_000, b"x")), "b0undary", 400, "invalid_multipart"),
        (build_form(('filename="x.png"', b"x")), "b0undary", 400, "invalid_multipart"),
        (build_form(('name="f"', b"http://127.0.0.1:1/x.png")), "b0undary", 422, "wrong_type"),
        (build_form(('name="f"', b"/etc/passwd")), "b0undary", 422, "wrong_type"),
        (build_form((FILE_PART, b"http://127.0.0.1:1/x.png")), "b0undary", 415, "unsupported_image"),
        (build_form(*[(FILE_PART, b"x")] * 5), "b0undary", 413, "batch_too_large"),
    ],
)
def test_invalid_form_is_rejected_by_name(content: bytes, boundary: str, status: int, code: str):
    """Malformed forms, text fields, other file types and too many files are rejected."""
    with pytest.raises(UserInputError) as error_info:
        parse_form(content, boundary)

    assert (status, code) == (error_info.value.http_status, error_info.value.code)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(FILE_PART, b"")], 'file 1 of field "f": got no bytes, accepted: a PNG, JPEG'),
        ([('name="comment"', b"hello")], 'form: got text of field "comment", accepted: PNG, JPEG'),
        ([('name="<b>"', b"hello")], "form: got text, accepted: PNG, JPEG"),
    ],
)
def test_wrong_part_is_named(image_files: list[bytes], parts: list[tuple[str, bytes]], message: str):
    """An empty file or a text beside a file is named by its field, if that name is plain."""
    with pytest.raises(UserInputError, match=message):
        parse_form(build_form(*parts, (FILE_PART, image_files[0])))
