"""The OpenAPI 3.1 document, built from the operations and the types that parse and answer."""

import base64
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from relearn.model.images.decode import encode_png
from relearn.model.images.formats import FORMAT_NAMES, IMAGE_TYPES
from relearn.model.images.scale import BYTE_WHITE
from relearn.model.inference.model_card import ModelCard
from relearn.serving.api.inference_protocol import OUTPUT_NAMES, list_datatypes
from relearn.serving.api.operations import ERRORS, Operation
from relearn.serving.config import ServeConfig
from relearn.serving.http.errors import ErrorResponse
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import MULTIPART_TYPE
from relearn.serving.inputs.parse_json import SCALES

Json = dict[str, Any]

SCHEMA_REFERENCE = "#/components/schemas/{name}"
SCALE: Json = {
    "description": "The number that is white; with 1, numbers may have fractions. Required if no number"
    " exceeds 1, unless all are 0 or 1 is white for the classifier.",
}
IMAGE_FILE: Json = {
    "type": "string",
    "format": "picture",
    "contentEncoding": "base64",
    "description": f"A {FORMAT_NAMES} file.",
}
SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def build_openapi(
    operations: Iterable[Operation], config: ServeConfig, card: ModelCard | None, needs_key: bool = False
) -> Json:
    """Build the document of `/openapi.json`; without `card` it has no shapes, classes or examples."""
    operations = list(operations)
    input_spec = InputSpec.from_card(card, config.max_images) if card else None
    types = [item for operation in operations for item in (operation.request, operation.response)]
    structs = {item for item in types if isinstance(item, type)} | {ErrorResponse}
    _, schemas = msgspec.json.schema_components(
        sorted(structs, key=lambda struct: struct.__name__), ref_template=SCHEMA_REFERENCE
    )
    schemas["PredictRequest"]["properties"]["images"] = _images_schema(input_spec)
    scales = {*SCALES, input_spec.scale} if input_spec else SCALES
    for name in ("PredictRequest", "FeedbackRequest"):
        schemas[name]["properties"]["scale"] = SCALE | {"enum": sorted(scales)}
    one_image = _images_schema(replace(input_spec, max_images=1) if input_spec else None)
    schemas["FeedbackRequest"]["properties"]["image"] = {"anyOf": [one_image, {"type": "null"}]}
    if card and input_spec:
        _name_classes(schemas, list(card.classes))
        schemas["InputTensor"]["properties"] |= {
            "data": {"type": "array", "items": _pixel_schema(card.scale)},
            "datatype": {"enum": list_datatypes(card.scale)},
        }
        schemas["RequestedOutput"]["properties"]["name"] = {"enum": list(OUTPUT_NAMES)}
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(
            operation, input_spec, card
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Relearn", "version": "1", "description": _describe_service(card)},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _describe_json(ERRORS[status], "ErrorResponse") for status in ERRORS},
            "securitySchemes": SECURITY_SCHEMES if needs_key else {},
        },
        "security": [{name: []} for name in SECURITY_SCHEMES] if needs_key else [],
    }


def _describe_service(card: ModelCard | None) -> str:
    if card is None:
        return "No model is released yet: /predict returns 503."
    shape_text = " × ".join(map(str, card.shape))
    return f"Classifies images of {card.dataset}, {shape_text}, into {len(card.classes)} classes."


def _describe(operation: Operation, input_spec: InputSpec | None, card: ModelCard | None) -> Json:
    name = operation.path.strip("/").replace("/", "_").replace(".", "_") or "root"
    description: Json = {"operationId": name, "summary": operation.summary, "tags": [operation.tag]}
    if "{model_name}" in operation.path:
        schema = {"type": "string"} | ({"enum": [card.name]} if card else {})
        description["parameters"] = [{"name": "model_name", "in": "path", "required": True, "schema": schema}]
    elif operation.parameters:
        description["parameters"] = [
            {"name": name, "in": "query", "schema": _limit_top_k(schema, card) if name == "top_k" else schema}
            for name, schema in operation.parameters.items()
        ]
    if operation.request:
        content = {media_type: _body_schema(media_type, input_spec) for media_type in operation.media_types}
        content["application/json"] = {"schema": _reference(operation.request.__name__)}
        if card and input_spec:
            content["application/json"]["examples"] = _build_examples(
                operation.request.__name__, input_spec, card
            )
        description["requestBody"] = {"required": True, "content": content}
    if operation.is_public:
        description["security"] = []
    if isinstance(operation.response, type):
        response = _describe_json(
            (operation.response.__doc__ or "").partition("\n")[0], operation.response.__name__
        )
    else:
        schema = {"type": "object"} if operation.response == "application/json" else {"type": "string"}
        response = {"description": "The content.", "content": {operation.response: {"schema": schema}}}
    errors = {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in operation.error_statuses
    }
    success = {"307": {"description": "Redirect."}} if name == "root" else {"200": response}
    return description | {"responses": success | errors}


def _describe_json(description: str, schema_name: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _reference(schema_name)}}}


def _reference(schema_name: str) -> Json:
    return {"$ref": SCHEMA_REFERENCE.format(name=schema_name)}


def _limit_top_k(schema: Any, card: ModelCard | None) -> Json:
    return dict(schema) | ({"maximum": len(card.classes)} if card else {})


def _name_classes(schemas: Json, classes: list[str]) -> None:
    """Restrict labels to the classes of the served classifier."""
    schemas["FeedbackRequest"]["properties"]["label"]["enum"] = classes
    prediction = schemas["Prediction"]["properties"]
    prediction["label"] = {"type": ["string", "null"], "enum": [*classes, None]}
    probabilities = next(
        schema for schema in prediction["probabilities"]["anyOf"] if schema["type"] == "object"
    )
    probabilities |= {
        "properties": dict.fromkeys(classes, probabilities["additionalProperties"]),
        "additionalProperties": False,
        "minProperties": 1,
    }


def _body_schema(media_type: str, input_spec: InputSpec | None) -> Json:
    """Describe a body that is not JSON: one file, raw pixels, or a form with files under any name."""
    if media_type != MULTIPART_TYPE:
        return {"schema": {"type": "string", "contentMediaType": media_type}}
    files = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    if input_spec:
        files["maxItems"] = input_spec.max_images
    form = {
        "type": "object",
        "properties": {"file": files},
        "required": ["file"],
        "additionalProperties": False,
    }
    return {"schema": form, "encoding": {"file": {"contentType": ", ".join(IMAGE_TYPES)}}}


def _images_schema(input_spec: InputSpec | None) -> Json:
    if input_spec is None:
        return {"type": ["array", "string"]}
    single_image_schemas = [
        *(_array_schema(shape, input_spec.scale) for shape in input_spec.accepted_shapes),
        IMAGE_FILE,
    ]
    batch_schemas = [
        {"type": "array", "minItems": 1, "maxItems": input_spec.max_images, "items": schema}
        for schema in single_image_schemas
    ]
    description = f"One image or several: {input_spec.accepted_values}, or files in base64."
    return {"anyOf": [*single_image_schemas, *batch_schemas], "description": description}


def _array_schema(shape: tuple[int, ...], white: int) -> Json:
    size, *inner_shape = shape
    items = _array_schema(tuple(inner_shape), white) if inner_shape else _pixel_schema(white)
    return {"type": "array", "minItems": size, "maxItems": size, "items": items}


def _pixel_schema(white: int) -> Json:
    return {"type": "number" if white == 1 else "integer", "minimum": 0, "maximum": white}


def _build_examples(request_name: str, input_spec: InputSpec, card: ModelCard) -> Json:
    """Build valid requests; the image is a bright vertical bar."""
    file_white = min(input_spec.file_scale or BYTE_WHITE, BYTE_WHITE)
    numbers, file = (_draw_bar(input_spec.shape, white) for white in (input_spec.scale, file_white))
    nested_pixels = numbers.reshape(input_spec.accepted_shapes[1]).tolist()
    base64_file = base64.b64encode(encode_png(file)).decode()
    tensor = {
        "name": "images",
        "shape": [1, *input_spec.shape],
        "datatype": list_datatypes(input_spec.scale)[0],
        "data": numbers.ravel().tolist(),
    }
    examples: dict[str, Json] = {
        "PredictRequest": {
            "A file in base64": {"images": base64_file},
            "One image, nested": {"images": nested_pixels},
            "Two images, flat": {"images": [numbers.ravel().tolist()] * 2},
        },
        "FeedbackRequest": {
            "Another label": {"request_id": "0f0e0d0c0b0a09080706050403020100", "label": card.classes[-1]}
        },
        "InferRequest": {"One image": {"inputs": [tensor]}},
    }
    return {name: {"value": value} for name, value in examples[request_name].items()}


def _draw_bar(shape: tuple[int, int, int], white: int) -> np.ndarray:
    image = np.zeros(shape, np.min_scalar_type(white))
    center = shape[2] // 2
    image[:, 2:-2, center - 1 : center + 1] = white
    return image
