"""From PNG and JPEG files to images: uint8 (n, channels, height, width), fitted in the classifier's style.

A file is told by its content alone. Nothing here opens a path or a URL: there is no decoder that could.
"""

import binascii
from collections.abc import Sequence

import numpy as np
from PIL.ImageFile import ImageFile

from relearn.model.errors import UserInputError
from relearn.model.images.decode import (
    FORMATS,
    MAX_PIXELS,
    compute_draft_factors,
    decode_pixels,
    fit_image,
    open_image,
)
from relearn.serving.http.requests import HTTPError
from relearn.serving.inputs.input_spec import InputSpec

IMAGE_TYPES = ("image/png", "image/jpeg")
_BASE64_FORMAT = "base64 of a PNG or JPEG file"


def parse_image(body: bytes, input_spec: InputSpec) -> np.ndarray:
    """One PNG or JPEG of any size."""
    return parse_images({"body": body}, input_spec)


def parse_base64_images(texts: Sequence[str], input_spec: InputSpec) -> np.ndarray:
    """PNG or JPEG files as base64, the images of a JSON body."""
    input_spec.check_image_count(len(texts))
    return parse_images(
        {f"images[{index}]": _decode_base64(text, index) for index, text in enumerate(texts)}, input_spec
    )


def parse_images(files: dict[str, bytes], input_spec: InputSpec) -> np.ndarray:
    """The content of one file or several, by what a refusal calls each.

    `LARGEST_PICTURE` bounds the pixels of all of them together: a request of many small files that unfold
    to large pictures costs no more than one such file.
    """
    images, remaining_pixels = [], MAX_PIXELS
    for name, content in files.items():
        if not content.startswith(tuple(FORMATS)):
            raise HTTPError(415, "unsupported_image", f"{name}: the image is neither PNG nor JPEG")
        try:
            # How large the file may be has been decided where its bytes were read.
            image_file = open_image(content, len(content), remaining_pixels)
            remaining_pixels -= image_file.width * image_file.height
            images.append(_decode_and_fit(image_file, input_spec))
            del image_file  # it has its pixels now: not to be kept while the next one is unfolded
        except UserInputError as error:
            raise UserInputError(f"{name}: {error}", error.code) from None
    return np.stack(images)


def _decode_and_fit(image_file: ImageFile, input_spec: InputSpec) -> np.ndarray:
    pixels = decode_pixels(
        image_file, compute_draft_factors(image_file.size, input_spec.shape, input_spec.style)
    )
    return fit_image(pixels, input_spec.shape, input_spec.style)


def _decode_base64(text: str, index: int) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # letters of another alphabet, wrong padding, or no ASCII at all
        raise UserInputError(
            f"images[{index}]: got another text, accepted: {_BASE64_FORMAT}", "wrong_type"
        ) from None
