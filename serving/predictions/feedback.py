"""`POST /feedback`: parsing of a label that a client reports for a predicted image, and the response."""

import codecs
import re
import time
from typing import Annotated, Literal

import msgspec
import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.inference.model_card import ModelCard
from relearn.serving.http.errors import HTTPError
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_json import parse_json, syntax_errors
from relearn.serving.predictions.entries import Feedback

ACCEPTED_MEMBERS = {
    "": 'an object with "request_id" and "label", optionally "index", "image" and "scale"',
    "request_id": "the one of the prediction, 1 to 64 letters, digits, '.', '_' and '-'",
    "label": "a string, the name of a class",
    "index": "the position of the image in its request, from 0",
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
    scale: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


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
    body = body.removeprefix(codecs.BOM_UTF8)
    with syntax_errors(body):
        payload = _decode_body(body)
    if payload.label not in card.classes:
        message = f"label: got another value, accepted: {', '.join(card.classes)}"
        raise UserInputError(message, "unknown_class")
    feedback = Feedback(payload.request_id, int(payload.index), time.time(), label=payload.label)
    if bytes(payload.image) != b"null":
        image = _parse_image(payload, card)
        feedback.shape, feedback.pixels = card.shape, image.tobytes()
    elif bytes(payload.scale) != b"null":
        message = "scale: got one without an image, accepted: with the numbers of an image only"
        raise UserInputError(message, "unknown_field")
    return feedback


def _decode_body(body: bytes) -> FeedbackRequest:
    try:
        payload = _BODY_DECODER.decode(body)
        raw_members = _MEMBERS_DECODER.decode(body)
    except msgspec.ValidationError as error:
        code, received = {
            "Object missing": ("missing_field", "no value of a required member"),
            "Object contains": ("unknown_field", "another member"),
        }.get(" ".join(str(error).split()[:2]), ("wrong_type", "another value"))
        path_match = re.search(r"`\$\.(\w+)`", str(error))
        member = path_match[1] if path_match else ""
        message = f"{member or 'body'}: got {received}, accepted: {ACCEPTED_MEMBERS[member]}"
        raise UserInputError(message, code) from None
    # For a duplicate member the decoder takes the last one. Each decoded name has two quotes; more quotes
    # outside the decoded values belong to a member that the decoder skipped.
    if body.count(b'"') - sum(bytes(raw).count(b'"') for raw in raw_members.values()) > 2 * len(raw_members):
        raise HTTPError(400, "duplicate_key", "body: got a member twice, accepted: each once")
    return payload


def _parse_image(payload: FeedbackRequest, card: ModelCard) -> np.ndarray:
    """Parse the one image of the feedback as `/predict` does; errors name the member `image`."""
    try:
        body, input_spec = (
            b'{"images":%b,"scale":%b}' % (payload.image, payload.scale),
            InputSpec.from_card(card, 1),
        )
        images = parse_json(body, input_spec)
        input_spec.check_content(images)
        return images
    except UserInputError as error:
        message = re.sub(r"^(images(\[0\])?|body)", "image", str(error))
        if error.code == "batch_too_large":  # feedback is about one image
            raise UserInputError(message, "wrong_shape") from None
        error.args = (message,)
        raise
