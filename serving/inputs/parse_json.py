"""Parsing the JSON body of a prediction request into images uint8 (n, channels, height, width)."""

import math
import re
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.images.scale import scale_to_uint8
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.image_files import parse_base64_images
from relearn.serving.inputs.input_spec import InputSpec, format_shape


def _nest_list_type(element_type: Any, depth: int) -> Any:
    return _nest_list_type(list[element_type], depth - 1) if depth else element_type


@cache
def _get_decoder(number_type: type[float], white: int, depth: int) -> msgspec.json.Decoder[list[Any]]:
    """Return the decoder of nested lists of numbers from 0 to `white`."""
    return msgspec.json.Decoder(_nest_list_type(Annotated[number_type, msgspec.Meta(ge=0, le=white)], depth))


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    images: msgspec.Raw


_BODY_DECODER = msgspec.json.Decoder(_Body)
MAX_DEPTH = 4  # of nested lists: several images with channels; one flat image has depth 1
_OPENING_BRACKETS = re.compile(rb"(?:\s*\[)*")
_STRING_START = re.compile(rb'\s*\[?\s*"')
_STRINGS_DECODER = msgspec.json.Decoder(list[str] | str)


def parse_json(body: bytes, input_spec: InputSpec) -> np.ndarray:
    """Parse `{"images": [...]}`: one image or several, flat or nested numbers, or base64 files."""
    raw = _extract_images(body)
    if _STRING_START.match(raw):
        _check_utf8(body)
        input_spec.check_image_count(-(-raw.count(b'"') // 2))  # base64 contains no quotes
        return parse_base64_images(_decode_strings(raw), input_spec)
    depth = _OPENING_BRACKETS.match(raw).group().count(b"[")  # type: ignore[union-attr]  # matches anything
    if depth == 0:
        raise UserInputError(f"images: got neither list nor string, accepted: {input_spec}", "wrong_type")
    if depth > MAX_DEPTH:
        raise UserInputError(f"images: got lists nested {depth} deep, accepted: {input_spec}", "wrong_shape")
    _check_json_size(raw, input_spec)
    return _to_batch(_decode_array(raw, depth, input_spec), input_spec)


def _check_json_size(raw: bytes, input_spec: InputSpec) -> None:
    """Reject too many numbers or lists before decoding: Python lists take up to 80 times the bytes.

    Numbers and lists are counted by their commas and brackets.
    """
    input_spec.check_value_count(raw.count(b",") + 1)
    if (list_count := raw.count(b"[")) > input_spec.max_images * math.prod(input_spec.shape):
        raise UserInputError(f"images: got {list_count} lists, accepted: {input_spec}", "wrong_shape")


def _extract_images(body: bytes) -> bytes:
    """Return the JSON text of the member `images`, not decoded."""
    try:
        raw = bytes(_BODY_DECODER.decode(body).images)
    except msgspec.ValidationError as error:
        _check_utf8(body)
        code = {"Object missing": "missing_field", "Object contains": "unknown_field"}.get(
            " ".join(str(error).split()[:2]), "wrong_type"
        )
        raise UserInputError('body: accepted: an object with only the member "images"', code) from None
    except RecursionError:
        raise HTTPError(400, "too_deep", "body: the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _json_syntax_error(body, error) from None
    # The decoder takes the last of two members with one name; a proxy may have validated the first.
    if body.rstrip()[:-1].rstrip().removesuffix(raw).count(b'"') > 2:
        raise HTTPError(400, "duplicate_key", 'body: got "images" twice, accepted: once')
    return raw


def _decode_strings(raw: bytes) -> list[str]:
    try:
        strings = _STRINGS_DECODER.decode(raw)
    except msgspec.ValidationError as error:
        path_match = re.search(r"`\$(.*)`", str(error))
        raise UserInputError(
            f"images{path_match[1] if path_match else ''}: got strings mixed with numbers, accepted: either"
            " strings or numbers",
            "wrong_type",
        ) from None
    return [strings] if isinstance(strings, str) else strings


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise HTTPError(400, "invalid_encoding", f"body: byte {error.start} is not UTF-8") from None


def _json_syntax_error(body: bytes, error: Exception) -> HTTPError:
    _check_utf8(body)
    position_match = re.search(r"byte (\d+)", str(error))
    position = int(position_match[1]) if position_match else len(body)
    if re.match(rb"-?(NaN|Infinity)", body[max(position - 1, 0) :].lstrip(b"[,: ")):
        return HTTPError(400, "non_finite", f"body: byte {position}: NaN and Infinity are not JSON numbers")
    return HTTPError(400, "invalid_json", f"body: invalid JSON at byte {position}")


def _decode_array(raw: bytes, depth: int, input_spec: InputSpec) -> np.ndarray:
    """Decode the numbers of `raw`, as JSON integers, else as floats, and scale them to uint8.

    Floats have no fraction (12.0), unless 1 is white.
    """
    white = input_spec.scale
    try:
        integers = _get_decoder(int, white, depth).decode(raw)
        return scale_to_uint8(_to_array(integers, np.min_scalar_type(white), input_spec), white)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise _invalid_value_error(raw, error, input_spec) from None
    try:
        numbers = _to_array(_get_decoder(float, white, depth).decode(raw), np.float64, input_spec)
    except msgspec.ValidationError as error:
        raise _invalid_value_error(raw, error, input_spec) from None
    fraction_indices = np.argwhere(numbers % 1)
    if white > 1 and len(fraction_indices):
        location = "".join(f"[{index}]" for index in fraction_indices[0])
        raise UserInputError(
            f"images{location}: got {numbers[tuple(fraction_indices[0])]:g}, accepted: "
            f"{input_spec.accepted_values}, not scaled",
            "not_whole",
        )
    return scale_to_uint8(numbers, white)


def _to_array(numbers: list[Any], dtype: Any, input_spec: InputSpec) -> np.ndarray:
    try:
        return np.array(numbers, dtype)
    except ValueError:
        raise _ragged_error(numbers, input_spec) from None


def _ragged_error(numbers: list[Any], input_spec: InputSpec) -> UserInputError:
    """Return an error that names the first image (or row or channel of a single image) of another shape."""
    shapes = [_get_shape(item) for item in numbers]
    expected_shapes = [*input_spec.accepted_shapes, *(shape[1:] for shape in input_spec.accepted_shapes)]
    common_shape = max(expected_shapes, key=shapes.count)
    index, outlier_shape = next((index, shape) for index, shape in enumerate(shapes) if shape != common_shape)
    message = f"got {format_shape(outlier_shape) if outlier_shape else 'rows of unequal length'}"
    if common_shape in shapes:
        message += f" where others have {format_shape(common_shape)}"
    return UserInputError(f"images[{index}]: {message}, accepted: {input_spec}", "wrong_shape")


def _to_batch(numbers: np.ndarray, input_spec: InputSpec) -> np.ndarray:
    """Reshape one image or several, in any accepted shape, to (n, channels, height, width)."""
    if not len(numbers):
        input_spec.check_image_count(0)
    if (
        numbers.shape not in input_spec.accepted_shapes
        and numbers.shape[1:] not in input_spec.accepted_shapes
    ):
        raise UserInputError(
            f"images: got {format_shape(numbers.shape)}, accepted: {input_spec}", "wrong_shape"
        )
    images = numbers.reshape(-1, *input_spec.shape)
    input_spec.check_image_count(len(images))
    return images


def _invalid_value_error(raw: bytes, error: msgspec.ValidationError, input_spec: InputSpec) -> UserInputError:
    """Return an error that names the invalid value, found by the path in msgspec's error."""
    path_match = re.search(r"`\$(.*)`", str(error))
    location = f"images{path_match[1] if path_match else ''}"
    if str(error).startswith("Integer value out of range"):  # thousands of digits
        return UserInputError(
            f"{location}: got a number with too many digits, accepted: {input_spec.accepted_values}",
            "out_of_range",
        )
    if "Number out of range" in str(error):
        return UserInputError(
            f"{location}: got an infinite number, accepted: {input_spec.accepted_values}", "non_finite"
        )
    if "`array`" in str(error):
        return UserInputError(
            f"{location}: got lists mixed with numbers, accepted: {input_spec}", "wrong_shape"
        )
    if "Expected `int` " in str(error) or "Expected `float` " in str(error):
        value: Any = msgspec.json.decode(raw, type=Any)
        for index in re.findall(r"\d+", location):
            value = value[int(index)]
        return UserInputError(
            f"{location}: got {str(value)[:20]}, accepted: {input_spec.accepted_values}", "out_of_range"
        )
    received_type = str(error).rpartition("got ")[2].split("`")[1]
    return UserInputError(
        f"{location}: got {received_type}, accepted: {input_spec.accepted_values}", "wrong_type"
    )


def _get_shape(image: Any) -> tuple[int, ...] | None:
    try:
        return tuple(np.shape(image))
    except ValueError:
        return None
