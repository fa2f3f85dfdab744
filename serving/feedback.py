"""`POST /feedback`: what somebody says that an image shows; every refusal is named."""

import re
import time
from typing import Annotated

import msgspec
import numpy as np

from relearn.model.classifier import Card
from relearn.model.errors import InputError
from relearn.serving.accepted import Accepted
from relearn.serving.guard import Refusal
from relearn.serving.inputs import from_json
from relearn.serving.records import Feedback

ACCEPTED = {
    "": 'an object with "request_id" and "label", and if need be "index" and "image"',
    "request_id": "that of the answer, 1 to 64 letters, digits, '.', '_' and '-'",
    "label": "the name of a class",
    "index": "the place of the image in its request, from 0",
}
IF_RECORDED = "If that prediction was recorded, it counts for accuracy"
# What becomes of the image. What another worker recorded, or was told not to, is not known here.
NOTES = {
    "kept": f"With its image it can become training data. {IF_RECORDED}.",
    "sampled": f"{IF_RECORDED}, and with its image it can become training data.",
    "none": f"{IF_RECORDED}; without its image it cannot become training data.",
}


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    request_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
    label: str
    index: Annotated[float, msgspec.Meta(ge=0, lt=2**32, multiple_of=1)] = 0  # to JSON, 3.0 is an integer
    image: msgspec.Raw = msgspec.Raw(b"null")


_BODY = msgspec.json.Decoder(_Body)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def reply(sent: bool, sampled: bool) -> dict[str, str]:
    """Whether the image came with the feedback, or else is of a request whose images are kept if recorded."""
    image = "kept" if sent else "sampled" if sampled else "none"
    return {"image": image, "note": NOTES[image]}


def read(body: bytes, card: Card) -> Feedback:
    """What `body` says of an image that the classifier of `card` may have answered wrongly.

    The label is one of the card's classes; the image, in the forms of /predict's JSON, is fitted to its
    shape. Whether there was such a prediction is not asked: another worker may have made it just now.
    """
    told = _decoded(body)
    if told.label not in card.classes:
        raise InputError(f"label: accepted: {', '.join(card.classes)}", "unknown_class")
    feedback = Feedback(told.request_id, int(told.index), time.time(), told.label)
    if bytes(told.image) != b"null":
        image = _image(bytes(told.image), card)
        feedback.shape, feedback.pixels = card.shape, image.tobytes()
    return feedback


def _decoded(body: bytes) -> _Body:
    try:
        told = _BODY.decode(body)
        members = _MEMBERS.decode(body)
    except msgspec.ValidationError as error:
        code = {"Object missing": "missing_field", "Object contains": "unknown_field"}.get(
            " ".join(str(error).split()[:2]), "wrong_type"
        )
        place = re.search(r"`\$\.(\w+)`", str(error))
        name = place[1] if place else ""
        raise InputError(f"{name or 'body'}: accepted: {ACCEPTED[name]}", code) from None
    except RecursionError:
        raise Refusal(400, "too_deep", "body: the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refusal(400, "invalid_json", "body: no valid JSON in UTF-8") from None
    # The decoder takes the last of two members with one name. Each name that it took has two quotes; any more
    # outside of the values that it took are those of a member that it passed over.
    if body.count(b'"') - sum(bytes(raw).count(b'"') for raw in members.values()) > 2 * len(members):
        raise Refusal(400, "duplicate_key", "body: got a member twice, accepted: each once")
    return told


def _image(raw: bytes, card: Card) -> np.ndarray:
    """The one image that `raw`, JSON, holds; the readers of /predict speak of `images`."""
    try:
        return from_json(b'{"images":' + raw + b"}", Accepted(card.shape, card.style, 1))
    except InputError as error:
        told = re.sub(r"^(images(\[0\])?|body)", "image", str(error))
        if error.code == "batch_too_large":  # where one image is meant, more are none
            raise InputError(told, "wrong_shape") from None
        error.args = (told,)
        raise
