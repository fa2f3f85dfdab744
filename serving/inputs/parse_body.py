"""Parsing a request body into images uint8 (n, channels, height, width), by content and media type."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.images.formats import HEADER_BYTES, IMAGE_TYPES, recognize_format
from relearn.model.images.scale import BYTE_WHITE, WORD_WHITE, scale_to_uint8
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.image_files import parse_image
from relearn.serving.inputs.input_spec import InputSpec, format_shape
from relearn.serving.inputs.multipart import parse_multipart
from relearn.serving.inputs.parse_json import is_ambiguous, parse_json

JSON_TYPE, RAW_TYPE, MULTIPART_TYPE = "application/json", "application/octet-stream", "multipart/form-data"
MEDIA_TYPES = (JSON_TYPE, RAW_TYPE, *IMAGE_TYPES, MULTIPART_TYPE)
_JSON_OBJECT = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"\w{1,64}"\s*:')
_MAX_JSON_START = 4_096  # bytes; a search through 10 MB of spaces would hold the event loop for 80 ms
# Types of numbers that clients send by mistake, the widest first: those of another width read them as tiny
# numbers, or as large ones.
_WIDER_DTYPES = ("<f8", "<i8", "<f4", "<i4", "<u2")
_SMALLEST_PIXEL = 2**-24  # above 0; float16 has none that is smaller
_ANY_TYPE = ("", "*/*", "image/*")  # the content alone decides


def recognize_media_type(
    declared: MediaType, body: bytes, accepted_types: Sequence[str] = MEDIA_TYPES
) -> MediaType:
    """Return the media type by which to parse `body`, one of `accepted_types`.

    The content of an image file or a JSON object decides where an image, JSON or nothing is declared: many
    clients guess the type from a file name, or send none. Raises `HTTPError` 415 for other declared types,
    and `UserInputError` for an image file or JSON that is declared as raw pixels.
    """
    content_type, media_type = _recognize_content(body), declared
    is_image = declared.name.startswith("image/")
    if declared.name == RAW_TYPE in accepted_types and content_type:
        raise UserInputError(
            f"body: got raw pixels that are {content_type}, accepted: this body with Content-Type:"
            f" {content_type}",
            "wrong_type",
        )
    if content_type and (is_image or declared.name in (JSON_TYPE, *_ANY_TYPE)):
        media_type = declared if content_type == declared.name else replace(declared, name=content_type)
    elif is_image:
        media_type = replace(declared, name=IMAGE_TYPES[0])  # the parser rejects its content
    is_hidden = content_type and content_type != media_type.name
    media_type.check_accepted(accepted_types, f" for a body of {content_type}" if is_hidden else "")
    return media_type


def _recognize_content(body: bytes) -> str:
    if _JSON_OBJECT.match(body, 0, _MAX_JSON_START):
        return JSON_TYPE
    image_format = recognize_format(body[:HEADER_BYTES])
    return image_format.media_type if image_format else ""


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
    return name == RAW_TYPE or (name == JSON_TYPE and body.count(b'"') <= 2)


def parse_raw(body: bytes, input_spec: InputSpec) -> np.ndarray:
    """Parse raw pixels of one image or several: channel by channel, row by row, no header.

    They are uint8, or little-endian uint16 if white is above 255.
    """
    dtype: np.dtype[np.unsignedinteger] = np.dtype(np.uint8 if input_spec.scale <= BYTE_WHITE else "<u2")
    bytes_per_image = math.prod(input_spec.shape) * dtype.itemsize
    if len(body) % bytes_per_image:
        raise UserInputError(
            f"body: got {len(body)} bytes, accepted: {bytes_per_image} for each image of"
            f" {format_shape(input_spec.shape)}",
            "wrong_shape",
        )
    input_spec.check_image_count(len(body) // bytes_per_image)
    if wider_dtype := _find_wider_dtype(body, input_spec, dtype):
        raise UserInputError(
            f"body: got bytes that are {wider_dtype} numbers as well, accepted: {dtype}", "wrong_type"
        )
    numbers = np.frombuffer(body, dtype).reshape(-1, *input_spec.shape)
    if input_spec.scale not in (BYTE_WHITE, WORD_WHITE) and numbers.max() > input_spec.scale:
        raise UserInputError(
            f"body: got {numbers.max()}, accepted: {dtype} from 0 to {input_spec.scale}", "out_of_range"
        )
    if is_ambiguous(numbers, input_spec.scale):
        raise UserInputError(
            f"body: got only 0 and 1, accepted: {dtype} from 0 to {input_spec.scale}, not scaled",
            "ambiguous_scale",
        )
    return scale_to_uint8(numbers, input_spec.scale)


def _find_wider_dtype(
    body: bytes, input_spec: InputSpec, dtype: np.dtype[np.unsignedinteger]
) -> np.dtype[Any] | None:
    """Return the type, wider than `dtype`, by which all numbers of `body` are pixels too, and not all are 0.

    One image sent as float64, numpy's default, has the length of eight images of uint8.
    """
    for wider_dtype in map(np.dtype, _WIDER_DTYPES):
        image_bytes = math.prod(input_spec.shape) * wider_dtype.itemsize
        if wider_dtype.itemsize <= dtype.itemsize or len(body) % image_bytes:
            continue
        numbers = np.frombuffer(body, wider_dtype)
        is_in_range = numbers.min() >= 0 and 0 < numbers.max() <= input_spec.scale
        if is_in_range and numbers[numbers > 0].min() > _SMALLEST_PIXEL:
            return wider_dtype
    return None


PARSERS: dict[str, Callable[[bytes, InputSpec], np.ndarray]] = {
    JSON_TYPE: parse_json,
    RAW_TYPE: parse_raw,
    **dict.fromkeys(IMAGE_TYPES, parse_image),
}
