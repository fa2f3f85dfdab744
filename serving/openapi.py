"""The API in the words of OpenAPI 3.1: shapes and classes are those of the classifier being served."""

from typing import Any

import numpy as np

from model.classifier import Card
from serving.draw import FILES
from serving.inputs import READERS, Accepted
from serving.settings import ServeConfig

Json = dict[str, Any]

_ERRORS = {
    "400": "The body is empty or no JSON.",
    "413": "The body or the number of images is over its limit.",
    "415": "The media type, its charset or the picture's format is not accepted.",
    "422": "The body was understood, but it is no image for this classifier.",
    "500": "The server failed; its log says why.",
    "503": "No classifier has been released yet.",
    "504": "The request took too long.",
}
_STRING: Json = {"type": "string"}
_STRING_OR_NULL: Json = {"type": ["string", "null"]}
_NUMBER: Json = {"type": "integer", "minimum": 1}
_PIXEL = {"type": "integer", "minimum": 0, "maximum": 255}


def describe(config: ServeConfig, card: Card | None) -> Json:
    """The document behind `/openapi.json`; without a `card`, shapes, classes and examples are left open."""
    accepted = Accepted(card.shape, card.style, config.max_images) if card else None
    return {
        "openapi": "3.1.0",
        "info": {"title": "Relearn", "version": "1", "description": _about(card)},
        "paths": {
            "/predict": {"post": _predict(accepted)},
            "/feedback": {"post": _feedback(card)},
            "/livez": {"get": _plain("livez", "The process answers.", {})},
            "/readyz": {"get": _plain("readyz", "Predictions are answered.", _errors("503"))},
            "/info": {"get": _info()},
            "/metrics": {"get": _plain("metrics", "Counters in Prometheus' format.", {})},
            "/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "This document.",
                    "responses": {
                        "200": _answer("The document.", {"application/json": {"schema": {"type": "object"}}})
                    },
                }
            },
            **_page(),
        },
        "components": {
            "schemas": {
                "Images": _object(images=_images(accepted)),
                "Predictions": _object(
                    version={"type": "string"},
                    worker=_NUMBER,
                    request_id={"type": "string"},
                    predictions={"type": "array", "items": _prediction(card)},
                ),
                "Feedback": _told(card),
                "Kept": _object(
                    worker=_NUMBER, request_id=_STRING, image={"enum": ["kept", "none"]}, note=_STRING
                ),
                "Info": _object(worker=_NUMBER, version=_STRING_OR_NULL, workers=_workers()),
                "Error": _object(error=_object(**dict.fromkeys(("code", "message", "request_id"), _STRING))),
            }
        },
    }


def _about(card: Card | None) -> str:
    if card is None:
        return "Nothing is released yet: /predict answers 503."
    shape = " × ".join(map(str, card.shape))
    return f"Reads images of {card.dataset}, {shape}, into {len(card.classes)} classes."


def _predict(accepted: Accepted | None) -> Json:
    content: Json = {name: {"schema": _STRING | {"contentMediaType": name}} for name in READERS}
    content["application/json"] = _schema("Images") | {"examples": _examples(accepted) if accepted else {}}
    return {
        "operationId": "predict",
        "summary": "Images in; for each of them a label and the probability of every class.",
        "parameters": [
            _flag("seen", False, "Whether each prediction comes with the image as the network saw it."),
            _flag("record", True, "Whether this request may be recorded."),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _answer("One prediction for each image.", {"application/json": _schema("Predictions")}),
            **_errors(*_ERRORS),
        },
    }


def _flag(name: str, default: bool, description: str) -> Json:
    schema = {"type": "boolean", "default": default}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _page() -> Json:
    """The page to draw on."""
    redirect = {"summary": "Leads to the page.", "responses": {"307": {"description": "To /draw."}}}
    return {"/": {"get": {"operationId": "root"} | redirect}} | {
        path: {
            "get": {
                "operationId": path.strip("/").replace("/", "_").replace(".", "_"),
                "summary": "The page to draw on." if path == "/draw" else "A file of the page.",
                "responses": {"200": _answer("The file.", {kind: {"schema": _STRING}})},
            }
        }
        for path, (name, kind) in FILES.items()
    }


def _feedback(card: Card | None) -> Json:
    example = {"request_id": "3f0c9a52d1", "index": 0, "label": card.classes[-1]} if card else {}
    off = _answer("This server keeps no records.", {"application/json": _schema("Error")})
    body = _schema("Feedback") | {"examples": {"wrong": {"value": example}} if card else {}}
    return {
        "operationId": "feedback",
        "summary": "What an image shows that was predicted; with the image it can become training data.",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": _answer("It is kept.", {"application/json": _schema("Kept")}),
            "409": off,
            **_errors(*_ERRORS),
        },
    }


def _told(card: Card | None) -> Json:
    """The last word on an image counts."""
    members: Json = {
        "request_id": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "index": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": 0},
        "label": _STRING | ({"enum": list(card.classes)} if card else {}),
        "image": {"description": "One image in a form of Images, base64 of a PNG or JPEG file, or null."},
    }
    return _object(**members) | {"required": ["request_id", "label"]}


def _examples(accepted: Accepted) -> Json:
    """A bright bar in the middle: one image as nested lists, and two as flat ones."""
    bar = np.zeros(accepted.shape, int)
    middle = accepted.shape[2] // 2
    bar[:, 2:-2, middle - 1 : middle + 1] = 255
    nested = bar.reshape(accepted.forms[1]).tolist()
    return {
        "one": {"summary": "One image, nested", "value": {"images": nested}},
        "several": {"summary": "Two images, flat", "value": {"images": [bar.ravel().tolist()] * 2}},
    }


def _images(accepted: Accepted | None) -> Json:
    if accepted is None:
        return {"type": "array"}
    one = [_array(form) for form in accepted.forms]
    several = [
        {"type": "array", "minItems": 1, "maxItems": accepted.max_images, "items": form} for form in one
    ]
    return {"anyOf": [*one, *several], "description": "Whole numbers 0–255; one image or several."}


def _array(form: tuple[int, ...]) -> Json:
    size, *rest = form
    return {
        "type": "array",
        "minItems": size,
        "maxItems": size,
        "items": _array(tuple(rest)) if rest else _PIXEL,
    }


def _prediction(card: Card | None) -> Json:
    number = {"type": "number", "minimum": 0, "maximum": 1}
    seen = {
        "type": "string",
        "contentEncoding": "base64",
        "contentMediaType": "image/png",
        "description": "The image in the classifier's shape; with `seen=true` only.",
    }
    members: Json = {
        "label": _STRING,
        "probabilities": {"type": "object", "additionalProperties": number},
    }
    if card:
        members["label"] = {"type": "string", "enum": list(card.classes)}
        members["probabilities"] = _object(**dict.fromkeys(card.classes, number))
    return _object(**members, seen=seen) | {"required": list(members)}


def _object(**members: Json) -> Json:
    return {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


def _info() -> Json:
    answer = _answer("One entry a worker.", {"application/json": _schema("Info")})
    summary = "What every worker serves, and which release it could not take."
    return {"operationId": "info", "summary": summary, "responses": {"200": answer}}


def _workers() -> Json:
    refused = {"anyOf": [_object(version=_STRING, reason=_STRING), {"type": "null"}]}
    since = {"type": "string", "format": "date-time"}
    worker = _object(worker=_NUMBER, pid=_NUMBER, version=_STRING_OR_NULL, since=since, refused=refused)
    return {"type": "array", "items": worker}


def _plain(name: str, summary: str, errors: Json) -> Json:
    answer = _answer("Plain text.", {"text/plain": {"schema": _STRING}})
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **errors}}


def _errors(*statuses: str) -> Json:
    return {status: _answer(_ERRORS[status], {"application/json": _schema("Error")}) for status in statuses}


def _answer(description: str, content: Json) -> Json:
    return {"description": description, "content": content}


def _schema(name: str) -> Json:
    return {"schema": _reference(name)}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
