"""JSON Schemas of requests and responses."""

from dataclasses import replace
from typing import Any, get_args

from relearn.model.images.resize import ImageStyle
from relearn.model.inference.model_card import ModelCard
from relearn.serving.api.responses import LIMIT_SETTINGS, NO_CONTENT
from relearn.serving.inputs.image_types import IMAGE_FORMATS
from relearn.serving.inputs.input_spec import InputSpec

Json = dict[str, Any]

STRING: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 1}
PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1}
PIXEL: Json = {"type": "integer", "minimum": 0, "maximum": 255}
TIMESTAMP: Json = {"type": "string", "format": "date-time"}
IMAGE_FILE: Json = {
    "type": "string",
    "format": "picture",
    "contentEncoding": "base64",
    "description": f"A {IMAGE_FORMATS} file.",
}
IMAGE_STATE: Json = {
    "enum": ["kept", "sampled", "none"],
    "description": "kept: sent with the feedback. sampled: logged with the prediction, if that was logged.",
}


def build_components(input_spec: InputSpec | None, card: ModelCard | None) -> Json:
    """Build all schemas that the routes reference."""
    predictions_schema = {"type": "array", "items": _prediction_schema(card)}
    return {
        "Images": object_schema(images=_images_schema(input_spec)),
        "Predictions": object_schema(
            version=STRING, worker=COUNT, request_id=STRING, predictions=predictions_schema
        ),
        "Feedback": _feedback_schema(input_spec, card),
        "FeedbackReceipt": object_schema(worker=COUNT, request_id=STRING, image=IMAGE_STATE, note=STRING),
        "Info": _info_schema(),
        "Error": object_schema(error=object_schema(code=STRING, message=STRING, request_id=STRING)),
        "Any": {"type": "object"},
    }


def schema_reference(name: str) -> Json:
    """Return a reference to a schema of `build_components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def object_schema(**properties: Json) -> Json:
    """Build an object schema with exactly these members."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def multipart_schema(input_spec: InputSpec | None) -> Json:
    """Build the schema of a form with files, as sent by `curl -F file=@x.png`; any field name is accepted."""
    size_limit = {"maxItems": input_spec.max_images} if input_spec else {}
    files = {"type": "array", "minItems": 1, **size_limit, "items": {"type": "string", "format": "binary"}}
    return object_schema(file=files) | {"description": f"{IMAGE_FORMATS} files."}


def top_k_schema(card: ModelCard | None) -> Json:
    """Build the schema of `top_k`: 1 to the number of classes."""
    return COUNT | ({"maximum": len(card.classes)} if card else {})


def _images_schema(input_spec: InputSpec | None) -> Json:
    if input_spec is None:
        return {"type": ["array", "string"]}
    single_image_schemas = [*map(_array_schema, input_spec.accepted_shapes), IMAGE_FILE]
    batch_schemas = [
        {"type": "array", "minItems": 1, "maxItems": input_spec.max_images, "items": schema}
        for schema in single_image_schemas
    ]
    description = "One image or several: integers 0–255, or files in base64."
    return {"anyOf": [*single_image_schemas, *batch_schemas], "description": description}


def _array_schema(shape: tuple[int, ...]) -> Json:
    size, *inner_shape = shape
    items = _array_schema(tuple(inner_shape)) if inner_shape else PIXEL
    return {"type": "array", "minItems": size, "maxItems": size, "items": items}


def boolean_schema(*, default: bool) -> Json:
    """Build the schema of a boolean with a default."""
    return {"type": "boolean", "default": default}


def _prediction_schema(card: ModelCard | None) -> Json:
    probabilities_schema: Json = {"type": "object", "additionalProperties": PROBABILITY}
    properties: Json = {"label": _nullable(STRING)}
    if card:
        properties["label"] = {"type": ["string", "null"], "enum": [*card.classes, None]}
        probabilities_schema = object_schema(**dict.fromkeys(card.classes, PROBABILITY))
        probabilities_schema |= {"required": [], "minProperties": 1}
    properties["probabilities"] = _nullable(probabilities_schema)
    description = "The image as the network received it, a PNG; only with return_input=true."
    input_schema = STRING | {
        "contentEncoding": "base64",
        "contentMediaType": "image/png",
        "description": description,
    }
    reason_schema = {"enum": [NO_CONTENT], "description": "Why the label is null: nothing is drawn there."}
    return object_schema(**properties, reason=reason_schema, input=input_schema) | {
        "required": list(properties)
    }


def _feedback_schema(input_spec: InputSpec | None, card: ModelCard | None) -> Json:
    """Build the schema of a label correction, the body of `/feedback`."""
    image_schema = _images_schema(replace(input_spec, max_images=1) if input_spec else None)
    properties: Json = {
        "request_id": STRING | {"pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "index": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "default": 0},
        "label": STRING | ({"enum": list(card.classes)} if card else {}),
        "image": _nullable(image_schema),
    }
    return object_schema(**properties) | {"required": ["request_id", "label"]}


def _info_schema() -> Json:
    limit_schema = {"type": "number", "exclusiveMinimum": 0}
    return object_schema(
        worker=COUNT,
        version=_nullable(STRING),
        serving_since=_nullable(TIMESTAMP),
        classifier=_nullable(_classifier_schema()),
        workers={"type": "array", "items": _worker_status_schema()},
        limits=object_schema(**dict.fromkeys(LIMIT_SETTINGS, limit_schema)),
    )


def _classifier_schema() -> Json:
    return object_schema(
        dataset=STRING,
        network=STRING,
        parameters=COUNT,
        shape={"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3},
        style={"enum": list(get_args(ImageStyle))},
        classes={"type": "array", "items": STRING},
        metrics={"type": "object", "additionalProperties": {"type": "number"}},
        fingerprint=STRING,
        torch=STRING,
    )


def _worker_status_schema() -> Json:
    load_error_schema = _nullable(object_schema(version=STRING, reason=STRING))
    return object_schema(
        worker=COUNT,
        pid=COUNT,
        version=_nullable(STRING),
        serving_since=TIMESTAMP,
        load_error=load_error_schema,
    )


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}
