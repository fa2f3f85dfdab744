"""The API in the words of OpenAPI 3.1: shapes and classes are those of the classifier being served."""

from typing import Any

from relearn.model.inference.model_card import ModelCard
from relearn.serving.api import openapi_examples, schemas
from relearn.serving.api.schemas import Json
from relearn.serving.config import ServeConfig
from relearn.serving.inputs.image_files import IMAGE_TYPES
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse import MEDIA_TYPES, MULTIPART_TYPE
from relearn.serving.page.draw_page import PAGE_FILES

ERROR_RESPONSES = {
    400: ("empty_body", "The request or its body is malformed."),
    401: ("missing_key", "No key of this server, or several."),
    403: ("forbidden_host", "Not asked as this machine, or for another site."),
    404: ("model_version_not_found", "There is no such path, or another version is live."),
    409: ("records_off", "This server keeps no records."),
    413: ("body_too_large", "The body or the number of images is over its limit."),
    415: (
        "unsupported_media_type",
        "Media type, charset, encoding or picture format is not accepted.",
    ),
    422: ("wrong_shape", "The request was understood, but it is none that this classifier can answer."),
    429: ("too_many_requests", "As much as there may be is in progress."),
    500: ("internal_error", "The server failed; its log says why."),
    503: ("no_release", "No classifier has been released yet, or the server stops."),
    504: ("timeout", "The request took too long."),
}
HEALTH_ERRORS = (403, 422, 500, 503, 504)  # of routes that need no key, and are never too many
METRICS_ERRORS = (401, *HEALTH_ERRORS)
INFO_ERRORS = (*METRICS_ERRORS, 429)
SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def build_openapi(config: ServeConfig, card: ModelCard | None, needs_key: bool = False) -> Json:
    """The document behind `/openapi.json`; without a `card`, shapes, classes and examples are left open."""
    input_spec = InputSpec(card.shape, card.style, config.max_images) if card else None
    info_operation = _build_json_operation(
        "info",
        "What is live, on which worker, and the limits.",
        "Info",
        openapi_examples.build_info_reply(card),
    )
    schema_operation = _build_json_operation(
        "schema", "What BentoML's clients read.", "Any", {"name": "Relearn"}
    )
    docs_operation = _build_json_operation(
        "docs", "The service as BentoML tells it.", "Any", {"openapi": "3.0.2"}
    )
    healthz_operation = _build_health_operation(
        "healthz", "The process answers: another name of /livez.", "alive\n"
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Relearn", "version": "1", "description": _describe_service(card)},
        "paths": {
            "/predict": {"post": _build_predict_operation(input_spec, card)},
            "/feedback": {"post": _build_feedback_operation(card)},
            "/info": {"get": info_operation},
            "/livez": {"get": _build_health_operation("livez", "The process answers.", "alive\n")},
            "/healthz": {"get": healthz_operation},
            "/readyz": {
                "get": _build_health_operation(
                    "readyz", "Predictions are answered: one was, just now.", "ready\n"
                )
            },
            "/metrics": {"get": _build_metrics_operation()},
            "/openapi.json": {
                "get": _build_json_operation("openapi", "This document.", "Any", {"openapi": "3.1.0"})
            },
            "/schema.json": {"get": schema_operation},
            "/docs.json": {"get": docs_operation},
            **_build_page_paths(),
        },
        "components": {
            "schemas": schemas.build_components(input_spec, card),
            "responses": {str(status): _build_error_response(status) for status in ERROR_RESPONSES},
            "securitySchemes": SECURITY_SCHEMES if needs_key else {},
        },
        "security": [{name: []} for name in SECURITY_SCHEMES] if needs_key else [],
    }


def _describe_service(card: ModelCard | None) -> str:
    if card is None:
        return "Nothing is released yet: /predict answers 503."
    shape_text = " × ".join(map(str, card.shape))
    return f"Reads images of {card.dataset}, {shape_text}, into {len(card.classes)} classes."


def _build_predict_operation(input_spec: InputSpec | None, card: ModelCard | None) -> Json:
    content: Json = {name: {"schema": {"type": "string", "contentMediaType": name}} for name in MEDIA_TYPES}
    content["application/json"] = {"schema": schemas.schema_reference("Images")}
    content[MULTIPART_TYPE] = {
        "schema": schemas.multipart_schema(input_spec),
        "encoding": {"file": {"contentType": ", ".join(IMAGE_TYPES)}},
    }
    if input_spec:
        content["application/json"]["examples"] = openapi_examples.build_predict_requests(input_spec)
    top_k_description = "Tell only so many classes of each image, the most likely first."
    return {
        "operationId": "predict",
        "summary": "Images in; for each of them a label and the probability of every class.",
        "parameters": [
            _build_query_parameter("top_k", top_k_description, schemas.top_k_schema(card)),
            _build_query_parameter("version", "Be answered by this version or not at all.", schemas.STRING),
            _build_query_parameter(
                "return_input",
                "Tell each image as the network saw it, too.",
                schemas.boolean_schema(default=False),
            ),
            _build_query_parameter(
                "log", "Whether this request may be recorded.", schemas.boolean_schema(default=True)
            ),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _build_json_response(
                "One prediction for each image.", "Predictions", openapi_examples.build_predict_reply(card)
            ),
            **_reference_errors(*(status for status in ERROR_RESPONSES if status != 409)),
        },
    }


def _build_feedback_operation(card: ModelCard | None) -> Json:
    body: Json = {"schema": schemas.schema_reference("Feedback")}
    if card:
        body["examples"] = {"wrong": {"value": openapi_examples.build_feedback_request(card)}}
    return {
        "operationId": "feedback",
        "summary": "What an image shows that was predicted; with the image it can become training data.",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": _build_json_response(
                "It is kept, whether or not that prediction was recorded.",
                "Kept",
                openapi_examples.FEEDBACK_REPLY,
            ),
            **_reference_errors(*ERROR_RESPONSES),
        },
    }


def _build_page_paths() -> Json:
    """The page to draw on: open to everybody, for it asks for a key."""
    operation = {"operationId": "root", "summary": "Leads to the page.", "security": []}
    responses = {"responses": {"307": {"description": "To /draw."}, **_reference_errors(*HEALTH_ERRORS, 429)}}
    return {"/": {"get": operation | responses}} | {
        path: {
            "get": {
                "operationId": path.strip("/").replace("/", "_").replace(".", "_"),
                "summary": "The page to draw on." if path == "/draw" else "A file of the page.",
                "security": [],
                "responses": {
                    "200": {"description": "The file.", "content": {media_type: {"schema": schemas.STRING}}},
                    **_reference_errors(*HEALTH_ERRORS, 429),
                },
            }
        }
        for path, (_, media_type) in PAGE_FILES.items()
    }


def _build_query_parameter(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _build_json_operation(operation_id: str, summary: str, schema_name: str, example: Any) -> Json:
    response = _build_json_response(summary, schema_name, example)
    return {
        "operationId": operation_id,
        "summary": summary,
        "responses": {"200": response, **_reference_errors(*INFO_ERRORS)},
    }


def _build_text_operation(
    operation_id: str, summary: str, example: str, error_statuses: tuple[int, ...]
) -> Json:
    content = {"text/plain": {"schema": schemas.STRING, "example": example}}
    response = {"description": summary, "content": content}
    return {
        "operationId": operation_id,
        "summary": summary,
        "responses": {"200": response, **_reference_errors(*error_statuses)},
    }


def _build_health_operation(operation_id: str, summary: str, example: str) -> Json:
    return _build_text_operation(operation_id, summary, example, HEALTH_ERRORS) | {"security": []}


def _build_metrics_operation() -> Json:
    return _build_text_operation(
        "metrics", "Counters in Prometheus' format.", openapi_examples.METRICS_TEXT, METRICS_ERRORS
    )


def _build_json_response(description: str, schema_name: str, example: Any) -> Json:
    content = {"schema": schemas.schema_reference(schema_name)} | ({"example": example} if example else {})
    return {"description": description, "content": {"application/json": content}}


def _build_error_response(status: int) -> Json:
    code, description = ERROR_RESPONSES[status]
    return _build_json_response(description, "Error", openapi_examples.build_error_reply(code))


def _reference_errors(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
