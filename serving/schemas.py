"""The shapes of what goes in and comes out, in the words of JSON Schema."""

from dataclasses import replace
from typing import Any

from relearn.model.classifier import Card
from relearn.serving.accepted import Accepted
from relearn.serving.info import LIMITS

Json = dict[str, Any]

STRING: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 1}
PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1}
PIXEL: Json = {"type": "integer", "minimum": 0, "maximum": 255}
TIME: Json = {"type": "string", "format": "date-time"}
FILE: Json = {
    "type": "string",
    "format": "picture",
    "contentEncoding": "base64",
    "description": "A PNG or JPEG file.",
}
KEPT: Json = {
    "enum": ["kept", "sampled", "none"],
    "description": "kept: it came with the feedback. sampled: it is kept if the prediction was recorded.",
}


def by_name(accepted: Accepted | None, card: Card | None) -> Json:
    """All schemas that routes refer to."""
    predictions = {"type": "array", "items": _prediction(card)}
    return {
        "Images": record(images=_images(accepted)),
        "Predictions": record(version=STRING, worker=COUNT, request_id=STRING, predictions=predictions),
        "Feedback": _feedback(accepted, card),
        "Kept": record(worker=COUNT, request_id=STRING, image=KEPT, note=STRING),
        "Info": _info(),
        "Error": record(error=record(code=STRING, message=STRING, request_id=STRING)),
        "Any": {"type": "object"},
    }


def reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def record(**members: Json) -> Json:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


def form(accepted: Accepted | None) -> Json:
    """Files under the name that people give them with `curl -F`; others are taken as well."""
    most = {"maxItems": accepted.max_images} if accepted else {}
    files = {"type": "array", "minItems": 1, **most, "items": {"type": "string", "format": "binary"}}
    return record(file=files) | {"description": "PNG or JPEG files."}


def top_k(card: Card | None) -> Json:
    return COUNT | ({"maximum": len(card.classes)} if card else {})


def _images(accepted: Accepted | None) -> Json:
    if accepted is None:
        return {"type": ["array", "string"]}
    one = [*map(_array, accepted.forms), FILE]
    several = [
        {"type": "array", "minItems": 1, "maxItems": accepted.max_images, "items": form} for form in one
    ]
    about = "One image or several: whole numbers 0–255, or files in base64."
    return {"anyOf": [*one, *several], "description": about}


def _array(form: tuple[int, ...]) -> Json:
    size, *rest = form
    items = _array(tuple(rest)) if rest else PIXEL
    return {"type": "array", "minItems": size, "maxItems": size, "items": items}


def flag(*, default: bool) -> Json:
    return {"type": "boolean", "default": default}


def _prediction(card: Card | None) -> Json:
    members: Json = {
        "label": STRING,
        "probabilities": {"type": "object", "additionalProperties": PROBABILITY},
    }
    if card:
        members["label"] = {"type": "string", "enum": list(card.classes)}
        named = record(**dict.fromkeys(card.classes, PROBABILITY))
        members["probabilities"] = named | {"required": [], "minProperties": 1}
    about = "A PNG in the classifier's shape; with seen=true only."
    seen = STRING | {"contentEncoding": "base64", "contentMediaType": "image/png", "description": about}
    return record(**members, seen=seen) | {"required": list(members)}


def _feedback(accepted: Accepted | None, card: Card | None) -> Json:
    """The last word on an image counts."""
    image = _images(replace(accepted, max_images=1) if accepted else None)
    members: Json = {
        "request_id": STRING | {"pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "index": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": 0},
        "label": STRING | ({"enum": list(card.classes)} if card else {}),
        "image": _or_null(image),
    }
    return record(**members) | {"required": ["request_id", "label"]}


def _info() -> Json:
    limit = {"type": "number", "exclusiveMinimum": 0}
    return record(
        worker=COUNT,
        version=_or_null(STRING),
        since=_or_null(TIME),
        classifier=_or_null(_classifier()),
        workers={"type": "array", "items": _worker()},
        limits=record(**dict.fromkeys(LIMITS, limit)),
    )


def _classifier() -> Json:
    return record(
        dataset=STRING,
        network=STRING,
        parameters=COUNT,
        shape={"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3},
        style={"enum": ["strokes", "plain"]},
        classes={"type": "array", "items": STRING},
        metrics={"type": "object", "additionalProperties": {"type": "number"}},
        fingerprint=STRING,
        torch=STRING,
    )


def _worker() -> Json:
    refused = _or_null(record(version=STRING, reason=STRING))
    return record(worker=COUNT, pid=COUNT, version=_or_null(STRING), since=TIME, refused=refused)


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}
