"""`POST /feedback`: parsing of a label that a client reports for a predicted image, and the response."""

import re
import time
from typing import Annotated, Literal

import msgspec
import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.inference.model_card import ModelCard
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_json import parse_json
from relearn.serving.predictions.entries import Feedback

ACCEPTED_MEMBERS = {
    "": 'an object with "request_id" and "label", optionally "index", "image" and "scale"',
    "request_id": "the one of the prediction, 1 to 64 letters, digits, '.', '_' and '-'",
    "label": "the name of a class",
    "index": "the position of the image in its request, from 0",
    "scale": "1 or 255, the number that is white in the image",
}
IF_LOGGED = "If that prediction was recorded, it counts for accuracy"
# Use of the image. This worker does not know whether another worker recorded the prediction.
ImageState = Literal["kept", "sampled", "none"]
IMAGE_NOTES: dict[ImageState, str] = {
    "kept": f"With its image it can become training data. {IF_LOGGED}.",
    "sampled": f"{IF_LOGGED}, and with its image it can become training data.",
    "none": f"{IF_LOGGED}; without its image it cannot become training data.",
}


class FeedbackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The label of a predicted image, optionally with the image."""

    # The lookahead is the end of the text in Python and in JSON Schema; `$` allows a line break after it.
    request_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}(?![\s\S])")]
    label: str
    index: Annotated[float, msgspec.Meta(ge=0, lt=2**32, multiple_of=1)] = 0  # to JSON, 3.0 is an integer
    image: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    scale: int | None = None  # of the numbers of the image


_BODY_DECODER = msgspec.json.Decoder(FeedbackRequest)
_MEMBERS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def describe_image_use(has_image: bool, is_image_logged: bool) -> tuple[ImageState, str]:
    """Return whether the image is in the feedback, in the log or missing, and a note on its use."""
    image_state: ImageState = "kept" if has_image else "sampled" if is_image_logged else "none"
    return image_state, IMAGE_NOTES[image_state]


def parse_feedback(body: bytes, card: ModelCard) -> Feedback:
    """Parse the feedback in `body` on a prediction of the classifier of `card`.

    The label must be a class of the card. The image has a form that `/predict` accepts in JSON and is
    resized to the card's shape. The prediction itself is not looked up: another worker may have made it.
    """
    payload = _decode_body(body)
    if payload.label not in card.classes:
        raise UserInputError(f"label: accepted: {', '.join(card.classes)}", "unknown_class")
    feedback = Feedback(payload.request_id, int(payload.index), time.time(), label=payload.label)
    if bytes(payload.image) != b"null":
        image = _parse_image(payload, card)
        feedback.shape, feedback.pixels = card.shape, image.tobytes()
    return feedback


def _decode_body(body: bytes) -> FeedbackRequest:
    try:
        payload = _BODY_DECODER.decode(body)
        raw_members = _MEMBERS_DECODER.decode(body)
    except msgspec.ValidationError as error:
        code = {"Object missing": "missing_field", "Object contains": "unknown_field"}.get(
            " ".join(str(error).split()[:2]), "wrong_type"
        )
        path_match = re.search(r"`\$\.(\w+)`", str(error))
        member = path_match[1] if path_match else ""
        raise UserInputError(f"{member or 'body'}: accepted: {ACCEPTED_MEMBERS[member]}", code) from None
    except RecursionError:
        raise HTTPError(400, "too_deep", "body: the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise HTTPError(400, "invalid_json", "body: no valid JSON in UTF-8") from None
    # For a duplicate member the decoder takes the last one. Each decoded name has two quotes; more quotes
    # outside the decoded values belong to a member that the decoder skipped.
    if body.count(b'"') - sum(bytes(raw).count(b'"') for raw in raw_members.values()) > 2 * len(raw_members):
        raise HTTPError(400, "duplicate_key", "body: got a member twice, accepted: each once")
    return payload


def _parse_image(payload: FeedbackRequest, card: ModelCard) -> np.ndarray:
    """Parse the one image of the feedback as `/predict` does; errors name the member `image`."""
    try:
        body = b'{"images":%b,"scale":%b}' % (bytes(payload.image), msgspec.json.encode(payload.scale))
        return parse_json(body, InputSpec.from_card(card, 1))
    except UserInputError as error:
        message = re.sub(r"^(images(\[0\])?|body)", "image", str(error))
        if error.code == "batch_too_large":  # feedback is about one image
            raise UserInputError(message, "wrong_shape") from None
        error.args = (message,)
        raise
