"""Parsing image files into images uint8 (n, channels, height, width), fitted to the classifier.

The file type is detected from the content alone. Nothing here opens a path or a URL.
"""

import binascii
import re
from collections.abc import Sequence

import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.images.decode import MAX_PIXELS, open_image
from relearn.model.images.formats import FORMAT_NAMES, HEADER_BYTES
from relearn.model.images.resize import decode_fitted
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.input_spec import InputSpec

_DATA_URL = re.compile(r"\s*data:[^,]{0,100};base64,", re.IGNORECASE)
_URL = re.compile(r"\s*[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
# No image file is shorter; short words and paths are valid base64.
_MIN_BASE64_LENGTH = HEADER_BYTES * 4 // 3
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
EXAMPLE_FILE = (
    '"iVBORw0KGgoAAAANSUhEUgAAAAQAAAAEAQAAAACBiqPTAAAAEElEQVR4nGNoYHBgUGAQAAAFOADxWPSi/QAAAABJRU5ErkJggg=="'
)
"""A PNG file in base64, in quotes; with 1 bit for each pixel it is right for every scale."""


def parse_image(body: bytes, input_spec: InputSpec) -> np.ndarray:
    """Parse one image file of any size."""
    return parse_images({"body": body}, input_spec)


def parse_base64_images(texts: Sequence[str], input_spec: InputSpec) -> np.ndarray:
    """Parse image files in base64, as in a JSON body."""
    input_spec.check_image_count(len(texts))
    return parse_images(
        {f"images[{index}]": _decode_base64(text, index) for index, text in enumerate(texts)}, input_spec
    )


def parse_images(files: dict[str, bytes], input_spec: InputSpec) -> np.ndarray:
    """Parse one or several files. `files` maps the name for error messages to the content.

    `MAX_PIXELS` limits the pixels of all files together: many small files that decode to large images cost
    no more than one such file.
    """
    images, remaining_pixels = [], MAX_PIXELS
    for name, content in files.items():
        if not content:
            raise UserInputError(f"{name}: got no bytes, accepted: a {FORMAT_NAMES} file", "empty_file")
        try:
            # `read_body` has limited the file's bytes already, hence its own length as the limit.
            image_file = open_image(content, len(content), remaining_pixels)
            remaining_pixels -= image_file.width * image_file.height
            images.append(
                decode_fitted(image_file, input_spec.shape, input_spec.style, input_spec.file_scale)
            )
            del image_file  # frees its pixels before the next file is decoded
        except UserInputError as error:
            message = f"{name}: {error}"
            if error.code == "unsupported_image":
                raise HTTPError(415, error.code, message) from None
            raise UserInputError(message, error.code) from None
    return np.stack(images)


def _decode_base64(text: str, index: int) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet, padded or not, also in lines or a data URL."""
    try:
        encoded = _DATA_URL.sub("", text, count=1).encode("ascii").translate(_URL_SAFE, b"\t\n\r ")
        encoded = encoded.rstrip(b"=")
        if 0 < len(encoded) < _MIN_BASE64_LENGTH:
            raise ValueError("too short")
        return binascii.a2b_base64(encoded + b"=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError:  # another alphabet, another length, or not ASCII
        received = "a URL, which is not fetched" if _URL.match(text) else "another string"
        raise UserInputError(
            f"images[{index}]: got {received}, accepted: base64 of a {FORMAT_NAMES} file, such as"
            f" {EXAMPLE_FILE}",
            "wrong_type",
        ) from None
