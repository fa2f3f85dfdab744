"""From PNG and JPEG files to images: uint8 (n, channels, height, width), fitted in the classifier's style.

A file is told by its content alone. Nothing here opens a path or a URL: there is no decoder that could.
"""

import binascii
from collections.abc import Sequence

import numpy as np
from PIL.ImageFile import ImageFile

from relearn.model.errors import InputError
from relearn.model.images import FORMATS, LARGEST_PICTURE, fit_image, open_picture, reduction, unfold
from relearn.serving.accepted import Accepted
from relearn.serving.guard import Refusal

PICTURES = ("image/png", "image/jpeg")
_KINDS = "base64 of a PNG or JPEG file"


def from_picture(body: bytes, accepted: Accepted) -> np.ndarray:
    """One PNG or JPEG of any size."""
    return from_files({"body": body}, accepted)


def from_base64(texts: Sequence[str], accepted: Accepted) -> np.ndarray:
    """PNG or JPEG files as base64, the images of a JSON body."""
    accepted.check_count(len(texts))
    return from_files(
        {f"images[{index}]": _decoded(text, index) for index, text in enumerate(texts)}, accepted
    )


def from_files(files: dict[str, bytes], accepted: Accepted) -> np.ndarray:
    """The content of one file or several, by what a refusal calls each.

    `LARGEST_PICTURE` bounds the pixels of all of them together: a request of many small files that unfold
    to large pictures costs no more than one such file.
    """
    images, left = [], LARGEST_PICTURE
    for name, content in files.items():
        if not content.startswith(tuple(FORMATS)):
            raise Refusal(415, "unsupported_image", f"{name}: the picture is neither PNG nor JPEG")
        try:
            # How large the file may be has been decided where its bytes were read.
            picture = open_picture(content, len(content), left)
            left -= picture.width * picture.height
            images.append(_fitted(picture, accepted))
            del picture  # it has its pixels now: not to be kept while the next one is unfolded
        except InputError as error:
            raise InputError(f"{name}: {error}", error.code) from None
    return np.stack(images)


def _fitted(picture: ImageFile, accepted: Accepted) -> np.ndarray:
    smaller = unfold(picture, reduction(picture.size, accepted.shape, accepted.style))
    return fit_image(smaller, accepted.shape, accepted.style)


def _decoded(text: str, index: int) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # letters of another alphabet, wrong padding, or no ASCII at all
        raise InputError(f"images[{index}]: got another text, accepted: {_KINDS}", "wrong_type") from None
