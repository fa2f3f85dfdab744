"""From the bytes of a request to images: uint8 (n, channels, height, width); every refusal is named."""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np

from relearn.model.errors import InputError
from relearn.serving.accepted import Accepted, times
from relearn.serving.forms import from_form
from relearn.serving.guard import MediaType, Refusal
from relearn.serving.pictures import PICTURES, from_base64, from_picture


def _nested(kind: Any, depth: int) -> Any:
    return _nested(list[kind], depth - 1) if depth else kind


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    images: msgspec.Raw


_BODY = msgspec.json.Decoder(_Body)
# By how deeply the numbers are nested: one flat image is 1 deep, several with channels are 4 deep.
_OF_BYTES, _OF_FLOATS = (
    [
        msgspec.json.Decoder(_nested(Annotated[kind, msgspec.Meta(ge=0, le=255)], depth))
        for depth in (1, 2, 3, 4)
    ]
    for kind in (int, float)
)
_OPENING = re.compile(rb"(?:\s*\[)*")
_STARTS_WITH_TEXT = re.compile(rb'\s*\[?\s*"')
_TEXTS = msgspec.json.Decoder(list[str] | str)


def read(media_type: MediaType, body: bytes, accepted: Accepted) -> np.ndarray:
    """The images of a body of one of `MEDIA_TYPES`."""
    if media_type.name == FORM:
        return from_form(body, accepted, media_type.parameters.get("boundary", ""))
    return READERS[media_type.name](body, accepted)


def only_numbers(media_type: MediaType, body: bytes) -> bool:
    """Whether reading this body is a matter of its length: a small picture may unfold to a large one."""
    name = media_type.name
    return name == "application/octet-stream" or (name == "application/json" and body.count(b'"') <= 2)


def from_raw(body: bytes, accepted: Accepted) -> np.ndarray:
    """The pixels of one image or several and nothing else: uint8, channel by channel, row by row."""
    size = math.prod(accepted.shape)
    if len(body) % size:
        raise InputError(
            f"body: got {len(body)} bytes, accepted: {size} for each image of {times(accepted.shape)}",
            "wrong_shape",
        )
    accepted.check_count(len(body) // size)
    return np.frombuffer(body, np.uint8).reshape(-1, *accepted.shape)


def from_json(body: bytes, accepted: Accepted) -> np.ndarray:
    """`{"images": [...]}`: one image or several, as whole numbers 0–255, flat or nested, or as base64."""
    raw = _images(body)
    if _STARTS_WITH_TEXT.match(raw):
        _check_encoding(body)
        accepted.check_count(-(-raw.count(b'"') // 2))  # base64 has none in it
        return from_base64(_texts(raw), accepted)
    depth = _OPENING.match(raw).group().count(b"[")  # type: ignore[union-attr]  # matches anything
    if depth == 0:
        raise InputError(f"images: got neither list nor text, accepted: {accepted}", "wrong_type")
    if depth > len(_OF_BYTES):
        raise InputError(f"images: got lists {depth} deep, accepted: {accepted}", "wrong_shape")
    _check_size(raw, accepted)
    return _batch(_array(raw, depth, accepted), accepted)


def _check_size(raw: bytes, accepted: Accepted) -> None:
    """Refuse too many numbers or lists by their signs: as lists they take up to 80 times the bytes."""
    accepted.check_numbers(raw.count(b",") + 1)
    if (lists := raw.count(b"[")) > accepted.max_images * math.prod(accepted.shape):
        raise InputError(f"images: got {lists} lists, accepted: {accepted}", "wrong_shape")


def _images(body: bytes) -> bytes:
    """The text of the member `images`, unread."""
    try:
        raw = bytes(_BODY.decode(body).images)
    except msgspec.ValidationError as error:
        _check_encoding(body)
        code = {"Object missing": "missing_field", "Object contains": "unknown_field"}.get(
            " ".join(str(error).split()[:2]), "wrong_type"
        )
        raise InputError('body: accepted: an object with the one member "images"', code) from None
    except RecursionError:
        raise Refusal(400, "too_deep", "body: the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(body, error) from None
    # The decoder takes the last of two members with one name; a proxy that looks may have taken the first.
    if body.rstrip()[:-1].rstrip().removesuffix(raw).count(b'"') > 2:
        raise Refusal(400, "duplicate_key", 'body: got "images" twice, accepted: once')
    return raw


def _texts(raw: bytes) -> list[str]:
    try:
        texts = _TEXTS.decode(raw)
    except msgspec.ValidationError as error:
        place = re.search(r"`\$(.*)`", str(error))
        raise InputError(
            f"images{place[1] if place else ''}: texts and numbers are mixed, accepted: one or the other",
            "wrong_type",
        ) from None
    return [texts] if isinstance(texts, str) else texts


def _check_encoding(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as invalid:
        raise Refusal(400, "invalid_encoding", f"body: byte {invalid.start} is no UTF-8") from None


def _malformed(body: bytes, error: Exception) -> Refusal:
    _check_encoding(body)
    place = re.search(r"byte (\d+)", str(error))
    start = int(place[1]) if place else len(body)
    if re.match(rb"-?(NaN|Infinity)", body[max(start - 1, 0) :].lstrip(b"[,: ")):
        return Refusal(400, "non_finite", f"body: byte {start}: NaN and Infinity are no JSON numbers")
    return Refusal(400, "invalid_json", f"body: no valid JSON at byte {start}")


def _array(raw: bytes, depth: int, accepted: Accepted) -> np.ndarray:
    """The numbers of `raw`, uint8; in full strictness first, then with whole numbers written as 12.0."""
    try:
        return _regular(_OF_BYTES[depth - 1].decode(raw), np.uint8, accepted)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise _refused_value(raw, error, accepted) from None
    try:
        numbers = _regular(_OF_FLOATS[depth - 1].decode(raw), np.float64, accepted)
    except msgspec.ValidationError as error:
        raise _refused_value(raw, error, accepted) from None
    fractions = np.argwhere(numbers % 1)
    if len(fractions):
        where = "".join(f"[{index}]" for index in fractions[0])
        raise InputError(
            f"images{where}: got {numbers[tuple(fractions[0])]:g}, accepted: whole numbers 0–255, not scaled",
            "not_whole",
        )
    return numbers.astype(np.uint8)


def _regular(numbers: list[Any], dtype: Any, accepted: Accepted) -> np.ndarray:
    try:
        return np.array(numbers, dtype)
    except ValueError:
        raise _ragged(numbers, accepted) from None


def _ragged(numbers: list[Any], accepted: Accepted) -> InputError:
    """Which image, or which row or channel of the only image, is not as the others are."""
    shapes = [_shape(part) for part in numbers]
    wanted = [*accepted.forms, *(form[1:] for form in accepted.forms)]
    usual = max(wanted, key=shapes.count)
    index, got = next((index, shape) for index, shape in enumerate(shapes) if shape != usual)
    told = f"got {times(got) if got else 'rows of unequal length'}"
    if usual in shapes:
        told += f" where others have {times(usual)}"
    return InputError(f"images[{index}]: {told}, accepted: {accepted}", "wrong_shape")


def _batch(numbers: np.ndarray, accepted: Accepted) -> np.ndarray:
    """One image or several in any of the accepted forms → (n, channels, height, width)."""
    if not len(numbers):
        accepted.check_count(0)
    if numbers.shape not in accepted.forms and numbers.shape[1:] not in accepted.forms:
        raise InputError(f"images: got {times(numbers.shape)}, accepted: {accepted}", "wrong_shape")
    images = numbers.reshape(-1, *accepted.shape)
    accepted.check_count(len(images))
    return images


def _refused_value(raw: bytes, error: msgspec.ValidationError, accepted: Accepted) -> InputError:
    """Why one value was refused, told from where msgspec met it."""
    place = re.search(r"`\$(.*)`", str(error))
    where = f"images{place[1] if place else ''}"
    if str(error).startswith("Integer value out of range"):  # of thousands of digits
        return InputError(f"{where}: got a longer number, accepted: whole numbers 0–255", "out_of_range")
    if "Number out of range" in str(error):
        return InputError(f"{where}: got a number without end, accepted: whole numbers 0–255", "non_finite")
    if "`array`" in str(error):
        return InputError(f"{where}: lists and numbers are mixed, accepted: {accepted}", "wrong_shape")
    if "Expected `int` " in str(error) or "Expected `float` " in str(error):
        value: Any = msgspec.json.decode(raw, type=Any)
        for index in re.findall(r"\d+", where):
            value = value[int(index)]
        return InputError(f"{where}: got {str(value)[:20]}, accepted: whole numbers 0–255", "out_of_range")
    got = str(error).rpartition("got ")[2].split("`")[1]
    return InputError(f"{where}: got {got}, accepted: whole numbers 0–255", "wrong_type")


def _shape(image: Any) -> tuple[int, ...] | None:
    try:
        return tuple(np.shape(image))
    except ValueError:
        return None


READERS: dict[str, Callable[[bytes, Accepted], np.ndarray]] = {
    "application/json": from_json,
    "application/octet-stream": from_raw,
    **dict.fromkeys(PICTURES, from_picture),
}
FORM = "multipart/form-data"
MEDIA_TYPES = (*READERS, FORM)
