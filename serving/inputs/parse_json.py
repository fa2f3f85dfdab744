"""Parsing the JSON body of a prediction request into images uint8 (n, channels, height, width)."""

import codecs
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.images.scale import BYTE_WHITE, scale_to_uint8
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.image_files import EXAMPLE_FILE, parse_base64_images
from relearn.serving.inputs.input_spec import InputSpec, format_shape

SCALES = (1, BYTE_WHITE)  # the numbers that may be white
# Members by which other servers and clients send images.
OTHER_NAMES = {"instances", "inputs", "dataframe_split", "dataframe_records", "data", "image", "img", "b64"}


def _nest_list_type(element_type: Any, depth: int) -> Any:
    return _nest_list_type(list[element_type], depth - 1) if depth else element_type


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a prediction request: an image or several."""

    images: msgspec.Raw
    scale: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b""))


_BODY_DECODER = msgspec.json.Decoder(PredictRequest)
# Indexed by nesting depth - 1: one flat image has depth 1, several images with channels have depth 4.
_BYTE_DECODERS, _FLOAT_DECODERS = (
    [msgspec.json.Decoder(_nest_list_type(number_type, depth)) for depth in (1, 2, 3, 4)]
    for number_type in (Annotated[int, msgspec.Meta(ge=0, le=BYTE_WHITE)], float)
)
_OPENING_BRACKETS = re.compile(rb"(?:\s*\[)*")
_STRING_START = re.compile(rb'\s*\[?\s*"')
_STRINGS_DECODER = msgspec.json.Decoder(list[str] | str)
_NON_FINITE = re.compile(rb"[\[,:]\s*-?(NaN|Infinity)")
# Python's parser names the position of an error, but builds lists on its way, of up to 60 times the bytes.
_MAX_LOCATED_BYTES = 1_000_000
_MAX_MEMBER_BYTES = 65_536  # of all members but the pixels


def parse_json(body: bytes, input_spec: InputSpec) -> np.ndarray:
    """Parse `{"images": [...]}`: one image or several, numbers, flat or nested, or base64 files.

    The numbers are from 0 to the member `scale`, by default to the scale of the classifier. Without the
    member, numbers of which none exceeds 1 have two readings and are rejected, unless all are 0 or the scale
    of the classifier is 1.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    with syntax_errors(body):
        raw, scale = _extract_members(body, input_spec)
        if not _STRING_START.match(raw):
            return _parse_numbers(raw, scale, input_spec)
        _check_utf8(body)
        if scale is not None:
            message = "scale: got one for image files, accepted: none, since a file says what is white"
            raise UserInputError(message, "unknown_field")
        return parse_base64_images(_decode_strings(raw, input_spec), input_spec)


@contextmanager
def syntax_errors(body: bytes) -> Iterator[None]:
    """Raise `HTTPError` 400, with the position, for a `body` that is no JSON in UTF-8."""
    try:
        yield
    except RecursionError:
        raise HTTPError(400, "too_deep", "body: the JSON is nested too deeply") from None
    except (msgspec.DecodeError, json.JSONDecodeError, UnicodeDecodeError):
        raise _syntax_error(body) from None


def _extract_members(body: bytes, input_spec: InputSpec) -> tuple[bytes, int | None]:
    """Return the JSON text of the member `images`, not decoded, and the scale."""
    try:
        members = _BODY_DECODER.decode(body)
    except msgspec.ValidationError:
        _check_utf8(body)
        raise _member_error(body, input_spec) from None
    raw, raw_scale = bytes(members.images), bytes(members.scale)
    if body.count(b'"') - raw.count(b'"') - raw_scale.count(b'"') > (4 if raw_scale else 2):
        raise _duplicate_error()
    if raw_scale in (b"", b"null"):
        return raw, None
    accepted_scales = sorted({*SCALES, input_spec.scale})
    scale = _load(raw_scale) if len(raw_scale) < 10 else None
    if scale not in accepted_scales or isinstance(scale, bool):
        accepted = " or ".join(map(str, accepted_scales))
        raise UserInputError(f"scale: got another value, accepted: {accepted}", "out_of_range")
    return raw, int(scale)


def check_unique_members(body: bytes, values: bytes) -> None:
    """Raise `HTTPError` 400 for a JSON object, at any depth of `body`, that has two members of one name.

    `values` is the text of the pixels in `body`, in which no names are; the rest may have 64 kB.
    """
    rest = body.replace(values, b"0", 1)
    if len(rest) > _MAX_MEMBER_BYTES:
        message = f"body: got {len(rest)} bytes besides the pixels, accepted: up to {_MAX_MEMBER_BYTES}"
        raise HTTPError(400, "invalid_json", message)
    json.loads(rest, object_pairs_hook=_check_pairs)


def _check_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise _duplicate_error()


def _duplicate_error() -> HTTPError:
    # The decoder takes the last of two members with one name; a proxy may have validated the first.
    return HTTPError(400, "duplicate_key", "body: got a member twice, accepted: each once")


def _member_error(body: bytes, input_spec: InputSpec) -> UserInputError:
    """Return an error that says what a body is, if it is no object with the right members."""
    accepted = (
        f'an object with "images", {input_spec.accepted_values} or files in base64, and optionally "scale",'
        f' such as {{"images": [{EXAMPLE_FILE}]}}'
    )
    try:
        names = set(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except msgspec.ValidationError:
        kinds = {b"[": "a list", b'"': "a string", b"n": "null", b"t": "a boolean", b"f": "a boolean"}
        kind = kinds.get(body.lstrip()[:1], "a number")
        return UserInputError(f"body: got {kind}, accepted: {accepted}", "wrong_type")
    if unknown := names - {"images", "scale"}:
        names_of_others = sorted(unknown & OTHER_NAMES)
        received = f'"{names_of_others[0]}"' if names_of_others else "another member"
        return UserInputError(f"body: got {received}, accepted: {accepted}", "unknown_field")
    return UserInputError(f'body: got no "images", accepted: {accepted}', "missing_field")


def _syntax_error(body: bytes) -> HTTPError:
    _check_utf8(body)
    if match := _NON_FINITE.search(body):
        message = f"body: byte {match.start(1)}: NaN and Infinity are not JSON numbers"
        return HTTPError(400, "non_finite", message)
    location = ""
    if len(body) <= _MAX_LOCATED_BYTES:
        try:
            _load(body)
        except json.JSONDecodeError as error:
            location = f" at byte {len(error.doc[: error.pos].encode())}"
    return HTTPError(400, "invalid_json", f"body: invalid JSON{location}")


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise HTTPError(400, "invalid_encoding", f"body: byte {error.start} is not UTF-8") from None


def _decode_strings(raw: bytes, input_spec: InputSpec) -> list[str]:
    # Base64 contains no quotes and no commas, a data URL one comma.
    input_spec.check_image_count(max(-(-raw.count(b'"') // 2), raw.count(b",") // 2 + 1))
    try:
        strings = _STRINGS_DECODER.decode(raw)
    except msgspec.ValidationError:
        index = next(index for index, item in enumerate(_load(raw)) if not isinstance(item, str))
        raise UserInputError(
            f"images[{index}]: got strings mixed with numbers, accepted: either strings or numbers",
            "wrong_type",
        ) from None
    return [strings] if isinstance(strings, str) else strings


def _parse_numbers(raw: bytes, scale: int | None, input_spec: InputSpec) -> np.ndarray:
    white = scale or input_spec.scale
    other_forms = f', or files in base64, such as {{"images": [{EXAMPLE_FILE}]}}'
    numbers = decode_numbers(raw, white, input_spec, other_forms)
    images = input_spec.to_batch(numbers)
    if scale is None and is_ambiguous(numbers, white):
        raise UserInputError(
            "images: got only numbers from 0 to 1, which have two readings, accepted: with"
            f' "scale": 1 in the body if 1 is white, with "scale": {white} if {white} is white',
            "ambiguous_scale",
        )
    return to_uint8(numbers, white).reshape(images.shape)


def is_ambiguous(numbers: np.ndarray, white: int) -> bool:
    """Return whether no number exceeds 1, where another is white: they may have been scaled."""
    return bool(white != 1 and 0 < numbers.max(initial=0) <= 1)


def to_uint8(numbers: np.ndarray, white: int) -> np.ndarray:
    """Convert numbers from 0 to `white` to uint8; fractions raise `UserInputError`, unless `white` is 1."""
    if white != 1 and numbers.dtype != np.uint8:
        _check_values(numbers % 1 == 0, numbers, "not_whole", f"integers 0–{white}")
    return scale_to_uint8(numbers, white)


def decode_numbers(raw: bytes, white: int, input_spec: InputSpec, other_forms: str = "") -> np.ndarray:
    """Decode the JSON of lists of numbers from 0 to `white`; errors say "images".

    The result is uint8 if `white` is 255 and all numbers are integers, else float64. `other_forms` is added
    to what is accepted where something else than a number is.
    """
    depth = _OPENING_BRACKETS.match(raw).group().count(b"[")  # type: ignore[union-attr]  # matches anything
    if depth == 0:
        raise UserInputError(f"images: got neither list nor string, accepted: {input_spec}", "wrong_type")
    if depth > len(_BYTE_DECODERS):
        raise UserInputError(f"images: got lists nested {depth} deep, accepted: {input_spec}", "wrong_shape")
    # Too many numbers or lists are rejected before decoding: Python lists take up to 80 times the bytes.
    input_spec.check_value_count(raw.count(b",") + 1)
    if (list_count := raw.count(b"[")) > input_spec.max_images * math.prod(input_spec.shape):
        raise UserInputError(f"images: got {list_count} lists, accepted: {input_spec}", "wrong_shape")
    try:
        if white == BYTE_WHITE:
            return _to_array(_BYTE_DECODERS[depth - 1].decode(raw), np.uint8, input_spec)
    except msgspec.DecodeError:
        pass  # floats, or an item that is named below
    accepted = f"{'numbers' if white == 1 else 'integers'} 0–{white}"
    try:
        numbers = _to_array(_FLOAT_DECODERS[depth - 1].decode(raw), np.float64, input_spec)
    except msgspec.DecodeError:
        path, code, received = _find_invalid_item(_load(raw), depth) or ([], "wrong_type", "another item")
        location = "".join(f"[{index}]" for index in path)
        if code == "wrong_shape":
            accepted = str(input_spec)
        elif code == "wrong_type":
            accepted += other_forms
        raise UserInputError(f"images{location}: got {received}, accepted: {accepted}", code) from None
    _check_values((numbers >= 0) & (numbers <= white), numbers, "out_of_range", accepted)
    return numbers


def _load(raw: bytes) -> Any:
    """Decode any JSON: numbers too large for a float become infinite, and no number of digits is too long."""
    return json.loads(raw.decode(), parse_int=float)


def _find_invalid_item(item: Any, depth: int) -> tuple[list[int], str, str] | None:
    """Find the first item that is no number at `depth`; return its path, the error code, and what it is."""
    if isinstance(item, list) and depth:
        for index, child in enumerate(item):
            if location := _find_invalid_item(child, depth - 1):
                return [index, *location[0]], *location[1:]
        return None
    if isinstance(item, list) or (isinstance(item, float) and depth):
        return [], "wrong_shape", "lists mixed with numbers"
    if isinstance(item, float):
        return None if math.isfinite(item) else ([], "non_finite", "a number that is too large")
    names = {bool: "a boolean", str: "a string", dict: "an object"}
    return [], "wrong_type", names.get(type(item), "null")


def _check_values(is_valid: np.ndarray, numbers: np.ndarray, code: str, accepted: str) -> None:
    """Raise an error that names the first number of `numbers` for which `is_valid` is False."""
    if not is_valid.all():
        path = np.argwhere(~is_valid)[0]
        location = "".join(f"[{index}]" for index in path)
        raise UserInputError(f"images{location}: got {numbers[tuple(path)]:g}, accepted: {accepted}", code)


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


def _get_shape(image: Any) -> tuple[int, ...] | None:
    try:
        return tuple(np.shape(image))
    except ValueError:
        return None
