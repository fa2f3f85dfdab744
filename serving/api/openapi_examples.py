"""Example requests and responses of `/openapi.json`; the requests are valid for the served classifier."""

import base64
from typing import Any

import numpy as np

from relearn.model.images.decode import encode_png
from relearn.model.images.scale import BYTE_WHITE
from relearn.model.inference.model_card import ModelCard
from relearn.serving.api.responses import LIMIT_SETTINGS, describe_classifier
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.predictions.feedback import IMAGE_NOTES

Json = dict[str, Any]

METRICS_TEXT = 'relearn_requests_total{route="/predict",status="200"} 1.0\n'
_REQUEST_ID = "0f0e0d0c0b0a09080706050403020100"
FEEDBACK_REPLY = {"worker": 1, "request_id": _REQUEST_ID, "image": "none", "note": IMAGE_NOTES["none"]}
_TIMESTAMP = "2026-01-01T00:00:00.000+00:00"


def build_predict_requests(input_spec: InputSpec) -> Json:
    """Build requests with a bright vertical bar in every JSON form: nested, flat and base64."""
    image = _draw_bar(input_spec.shape, input_spec.scale)
    flat_pixels, nested_pixels = image.ravel().tolist(), image.reshape(input_spec.accepted_shapes[1]).tolist()
    file_white = min(input_spec.file_scale or BYTE_WHITE, BYTE_WHITE)
    base64_file = base64.b64encode(encode_png(_draw_bar(input_spec.shape, file_white))).decode()
    return {
        "one": {"summary": "One image, nested", "value": {"images": nested_pixels}},
        "several": {"summary": "Two images, flat", "value": {"images": [flat_pixels] * 2}},
        "files": {"summary": "Two files in base64", "value": {"images": [base64_file] * 2}},
    }


def build_predict_reply(card: ModelCard | None) -> Json:
    """Build a response of `/predict`; empty without a card."""
    if card is None:
        return {}
    probabilities = dict.fromkeys(card.classes, 0.0) | {card.classes[0]: 1.0}
    prediction = {"label": card.classes[0], "probabilities": probabilities}
    return {"version": "1", "worker": 1, "request_id": _REQUEST_ID, "predictions": [prediction]}


def build_feedback_request(card: ModelCard) -> Json:
    """Build a request to `/feedback` with the last class as the label."""
    return {"request_id": _REQUEST_ID, "index": 0, "label": card.classes[-1]}


def build_info_reply(card: ModelCard | None) -> Json:
    """Build a response of `/info`; without a card, that of a server without a release."""
    version_fields = (
        {"version": "1", "serving_since": _TIMESTAMP} if card else {"version": None, "serving_since": None}
    )
    worker_status = {
        "worker": 1,
        "pid": 4711,
        "version": version_fields["version"],
        "serving_since": _TIMESTAMP,
        "load_error": None,
    }
    return {
        "worker": 1,
        **version_fields,
        "classifier": describe_classifier(card) if card else None,
        "workers": [worker_status],
        "limits": dict.fromkeys(LIMIT_SETTINGS, 32),
    }


def build_error_reply(code: str) -> Json:
    """Build the response of an error with this code."""
    message = "what is wrong: got this, accepted: that"
    return {"error": {"code": code, "message": message, "request_id": _REQUEST_ID}}


def _draw_bar(shape: tuple[int, int, int], white: int) -> np.ndarray:
    image = np.zeros(shape, np.min_scalar_type(white))
    center = shape[2] // 2
    image[:, 2:-2, center - 1 : center + 1] = white
    return image
