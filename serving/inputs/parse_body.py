"""Parsing a request body into images uint8 (n, channels, height, width), by media type."""

import math
from collections.abc import Callable

import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.images.scale import BYTE_WHITE, WORD_WHITE, scale_to_uint8
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.image_files import parse_image
from relearn.serving.inputs.image_types import IMAGE_TYPES
from relearn.serving.inputs.input_spec import InputSpec, format_shape
from relearn.serving.inputs.multipart import parse_multipart
from relearn.serving.inputs.parse_json import parse_json

MULTIPART_TYPE = "multipart/form-data"


def parse_body(media_type: MediaType, body: bytes, input_spec: InputSpec) -> np.ndarray:
    """Parse the images of a body; its media type is one of `MEDIA_TYPES`."""
    if media_type.name == MULTIPART_TYPE:
        return parse_multipart(body, input_spec, media_type.parameters.get("boundary", ""))
    return PARSERS[media_type.name](body, input_spec)


def is_cheap_to_parse(media_type: MediaType, body: bytes) -> bool:
    """Return whether parse time depends on the body's length alone.

    A small image file may decode to many pixels.
    """
    name = media_type.name
    return name == "application/octet-stream" or (name == "application/json" and body.count(b'"') <= 2)


def parse_raw(body: bytes, input_spec: InputSpec) -> np.ndarray:
    """Parse raw pixels of one image or several: channel by channel, row by row, no header.

    They are uint8, or little-endian uint16 if white is above 255.
    """
    dtype = np.dtype(np.uint8 if input_spec.scale <= BYTE_WHITE else "<u2")
    bytes_per_image = math.prod(input_spec.shape) * dtype.itemsize
    if len(body) % bytes_per_image:
        raise UserInputError(
            f"body: got {len(body)} bytes, accepted: {bytes_per_image} for each image of"
            f" {format_shape(input_spec.shape)}",
            "wrong_shape",
        )
    input_spec.check_image_count(len(body) // bytes_per_image)
    numbers = np.frombuffer(body, dtype).reshape(-1, *input_spec.shape)
    if input_spec.scale not in (BYTE_WHITE, WORD_WHITE) and numbers.max() > input_spec.scale:
        raise UserInputError(
            f"body: got {numbers.max()}, accepted: {dtype} from 0 to {input_spec.scale}", "out_of_range"
        )
    return scale_to_uint8(numbers, input_spec.scale)


PARSERS: dict[str, Callable[[bytes, InputSpec], np.ndarray]] = {
    "application/json": parse_json,
    "application/octet-stream": parse_raw,
    **dict.fromkeys(IMAGE_TYPES, parse_image),
}
MEDIA_TYPES = (*PARSERS, MULTIPART_TYPE)
