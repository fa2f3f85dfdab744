"""Image files: fitting, accepted types, base64, and the pixel limit."""

from collections.abc import Callable

import numpy as np
import pytest

from relearn.model.errors import UserInputError
from relearn.serving.inputs.image_files import parse_base64_images, parse_image, parse_images
from relearn.serving.inputs.input_spec import InputSpec

GRAY_SPEC = InputSpec((1, 28, 28), "mnist", max_images=4)


def test_image_of_the_right_size_is_unchanged(image: np.ndarray, encoded: Callable[..., bytes]):
    """A PNG of the classifier's size keeps every pixel value."""
    assert np.array_equal(image[np.newaxis], parse_image(encoded(image), GRAY_SPEC))


def test_image_of_another_size_is_fitted(encoded: Callable[..., bytes]):
    """A dark stroke on a white background becomes a centered bright stroke on black."""
    drawing = np.full((1, 200, 120), 255, np.uint8)
    drawing[0, 20:120, 20:30] = 0

    fitted = parse_image(encoded(drawing, "JPEG"), GRAY_SPEC)

    assert (1, 1, 28, 28) == fitted.shape
    assert 0 == fitted[0, 0, 0, 0]
    assert fitted[0, 0, 14, 13:15].max() > 200


@pytest.mark.parametrize("content", [b"8BPS" + bytes(50), b"<svg/>", b"http://127.0.0.1/", b"%!PS"])
def test_other_file_types_are_rejected_undecoded(content: bytes):
    """The first bytes of a file decide its type, not the client's media type."""
    with pytest.raises(UserInputError) as error_info:
        parse_image(content, GRAY_SPEC)

    assert (415, "unsupported_image") == (error_info.value.http_status, error_info.value.code)


def test_pixel_limit_covers_all_files_together(encoded: Callable[..., bytes]):
    """The pixels of all files of a request are counted together: two files of 9 million exceed the limit."""
    half_of_limit = encoded(np.zeros((1, 3000, 3000), np.uint8))

    with pytest.raises(UserInputError, match=r"b: the image has 3000 × 3000 pixels") as error_info:
        parse_images({"a": half_of_limit, "b": half_of_limit}, GRAY_SPEC)

    assert (422, "image_dimensions") == (error_info.value.http_status, error_info.value.code)


def test_empty_string_is_not_an_image():
    """An empty string is valid base64, but no image file."""
    with pytest.raises(UserInputError, match=r"images\[0\]: got no bytes, accepted: a PNG, JPEG, WebP, "):
        parse_base64_images([""], GRAY_SPEC)
