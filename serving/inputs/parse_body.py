"""Parsing a request body into images uint8 (n, channels, height, width), by media type."""

import math
from collections.abc import Callable

import numpy as np

from relearn.model.errors import UserInputError
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
    """Parse raw pixels of one image or several: uint8, channel by channel, row by row, no header."""
    bytes_per_image = math.prod(input_spec.shape)
    if len(body) % bytes_per_image:
        raise UserInputError(
            f"body: got {len(body)} bytes, accepted: {bytes_per_image} for each image of"
            f" {format_shape(input_spec.shape)}",
            "wrong_shape",
        )
    input_spec.check_image_count(len(body) // bytes_per_image)
    return np.frombuffer(body, np.uint8).reshape(-1, *input_spec.shape)


PARSERS: dict[str, Callable[[bytes, InputSpec], np.ndarray]] = {
    "application/json": parse_json,
    "application/octet-stream": parse_raw,
    **dict.fromkeys(IMAGE_TYPES, parse_image),
}
MEDIA_TYPES = (*PARSERS, MULTIPART_TYPE)
