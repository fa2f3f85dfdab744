"""From the bytes of a request to images: uint8 (n, channels, height, width); every refusal is named."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from model.datasets import Style
from model.errors import InputError
from model.images import FORMATS, decode, fit_image
from serving.guard import Refusal


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


@dataclass(frozen=True)
class Accepted:
    """What the classifier reads, and how many images one request may hold."""

    shape: tuple[int, int, int]
    style: Style
    max_images: int

    @property
    def forms(self) -> tuple[tuple[int, ...], ...]:
        """The shapes in which one image may be written: flat, its rows where it is grey, its channels."""
        rows = [self.shape[1:]] if self.shape[0] == 1 else []
        return (math.prod(self.shape),), *rows, self.shape

    def __str__(self) -> str:
        return f"one image or several, each of {' or '.join(map(_times, self.forms))} numbers"


def from_picture(body: bytes, accepted: Accepted) -> np.ndarray:
    """One PNG or JPEG of any size, fitted to the classifier's shape in its style."""
    if not body.startswith(tuple(FORMATS)):
        raise Refusal(415, "unsupported_image", "body: the picture is neither PNG nor JPEG")
    # How large the file may be has been decided where its bytes were read.
    picture = decode(body, largest_file=len(body))
    return np.stack([fit_image(picture, accepted.shape, accepted.style)])


def from_json(body: bytes, accepted: Accepted) -> np.ndarray:
    """`{"images": [...]}` with whole numbers 0–255: one image or several, flat or nested.

    The last of two `images` counts, as everywhere in JSON.
    """
    raw = _images(body)
    depth = _OPENING.match(raw).group().count(b"[")  # type: ignore[union-attr]  # matches anything
    if depth == 0:
        raise InputError(f"images: got no list, accepted: {accepted}", "wrong_type")
    if depth > len(_OF_BYTES):
        raise InputError(f"images: got lists {depth} deep, accepted: {accepted}", "wrong_shape")
    images = _batch(_array(raw, depth, accepted), accepted)
    if len(images) > accepted.max_images:
        raise Refusal(
            413, "batch_too_large", f"images: got {len(images)}, accepted: up to {accepted.max_images}"
        )
    return images


def _images(body: bytes) -> bytes:
    """The text of the member `images`, unread."""
    try:
        return bytes(_BODY.decode(body).images)
    except msgspec.ValidationError as error:
        code = {"Object missing": "missing_field", "Object contains": "unknown_field"}.get(
            " ".join(str(error).split()[:2]), "wrong_type"
        )
        raise InputError('body: accepted: an object with the one member "images"', code) from None
    except RecursionError:
        raise Refusal(400, "too_deep", "body: the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(body, error) from None


def _malformed(body: bytes, error: Exception) -> Refusal:
    try:
        body.decode()
    except UnicodeDecodeError as invalid:
        return Refusal(400, "invalid_encoding", f"body: byte {invalid.start} is no UTF-8")
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
        index = next(index for index, image in enumerate(numbers) if _shape(image) not in accepted.forms)
        got = _shape(numbers[index])
        raise InputError(
            f"images[{index}]: got {_times(got) if got else 'rows of unequal length'}, accepted: {accepted}",
            "wrong_shape",
        ) from None


def _batch(numbers: np.ndarray, accepted: Accepted) -> np.ndarray:
    """One image or several in any of the accepted forms → (n, channels, height, width)."""
    if not numbers.shape[0]:
        raise InputError(f"images: got none, accepted: {accepted}", "empty_batch")
    if numbers.shape not in accepted.forms and numbers.shape[1:] not in accepted.forms:
        raise InputError(f"images: got {_times(numbers.shape)}, accepted: {accepted}", "wrong_shape")
    return numbers.reshape(-1, *accepted.shape)


def _refused_value(raw: bytes, error: msgspec.ValidationError, accepted: Accepted) -> InputError:
    """Why one value was refused, told from where msgspec met it."""
    place = re.search(r"`\$(.*)`", str(error))
    where = f"images{place[1] if place else ''}"
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


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


READERS: dict[str, Callable[[bytes, Accepted], np.ndarray]] = {
    "application/json": from_json,
    "image/png": from_picture,
    "image/jpeg": from_picture,
}
