"""Requests and answers as `/openapi.json` shows them; its requests are good ones of the classifier served."""

import base64
from typing import Any

import numpy as np

from relearn.model.classifier import Card
from relearn.model.images import png
from relearn.serving import info as told
from relearn.serving.accepted import Accepted
from relearn.serving.feedback import NOTES

Json = dict[str, Any]

METRICS = 'relearn_requests_total{route="/predict",status="200"} 1.0\n'
_REQUEST = "0f0e0d0c0b0a09080706050403020100"
KEPT = {"worker": 1, "request_id": _REQUEST, "image": "none", "note": NOTES["none"]}
_TIME = "2026-01-01T00:00:00.000+00:00"


def bodies(accepted: Accepted) -> Json:
    """A bright bar in the middle, once and twice, in every form that JSON has for it."""
    bar = _bar(accepted.shape)
    flat, nested = bar.ravel().tolist(), bar.reshape(accepted.forms[1]).tolist()
    file = base64.b64encode(png(bar)).decode()
    return {
        "one": {"summary": "One image, nested", "value": {"images": nested}},
        "several": {"summary": "Two images, flat", "value": {"images": [flat] * 2}},
        "files": {"summary": "Two files in base64", "value": {"images": [file] * 2}},
    }


def predictions(card: Card | None) -> Json:
    if card is None:
        return {}
    probabilities = dict.fromkeys(card.classes, 0.0) | {card.classes[0]: 1.0}
    one = {"label": card.classes[0], "probabilities": probabilities}
    return {"version": "1", "worker": 1, "request_id": _REQUEST, "predictions": [one]}


def feedback(card: Card) -> Json:
    return {"request_id": _REQUEST, "index": 0, "label": card.classes[-1]}


def info(card: Card | None) -> Json:
    live = {"version": "1", "since": _TIME} if card else {"version": None, "since": None}
    worker = {"worker": 1, "pid": 4711, "version": live["version"], "since": _TIME, "refused": None}
    return {
        "worker": 1,
        **live,
        "classifier": told.classifier(card) if card else None,
        "workers": [worker],
        "limits": dict.fromkeys(told.LIMITS, 32),
    }


def refusal(code: str) -> Json:
    message = "what was wrong: what was got, what is accepted"
    return {"error": {"code": code, "message": message, "request_id": _REQUEST}}


def _bar(shape: tuple[int, int, int]) -> np.ndarray:
    bar = np.zeros(shape, np.uint8)
    middle = shape[2] // 2
    bar[:, 2:-2, middle - 1 : middle + 1] = 255
    return bar
