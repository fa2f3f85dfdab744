"""The OpenAPI 3.1 document of the API, with image shapes and classes of the served classifier."""

from typing import Any

from relearn.model.inference.model_card import ModelCard
from relearn.serving.api import openapi_examples, schemas
from relearn.serving.api.schemas import Json
from relearn.serving.config import ServeConfig
from relearn.serving.inputs.image_types import IMAGE_TYPES
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import MEDIA_TYPES, MULTIPART_TYPE
from relearn.serving.page.draw_page import PAGE_FILES

ERROR_RESPONSES = {
    400: ("empty_body", "The request or its body is malformed."),
    401: ("missing_key", "No valid API key, or several keys."),
    403: ("forbidden_host", "Request from another machine, host name or site to a server without API keys."),
    404: ("model_version_not_found", "The path does not exist, or another version is live."),
    409: ("prediction_log_off", "The prediction log is off."),
    413: ("body_too_large", "The body or the number of images exceeds its limit."),
    415: (
        "unsupported_media_type",
        "The media type, charset, encoding or image format is not accepted.",
    ),
    422: ("wrong_shape", "The request is well-formed, but invalid for this classifier."),
    429: ("too_many_requests", "The worker's limit of concurrent requests is reached."),
    500: ("internal_error", "The server failed; its log has the reason."),
    503: ("no_release", "No classifier is released yet, or the server is stopping."),
    504: ("timeout", "The request took too long."),
}
HEALTH_ERRORS = (403, 422, 500, 503, 504)  # of routes that need no key and have no request limit
METRICS_ERRORS = (401, *HEALTH_ERRORS)
INFO_ERRORS = (*METRICS_ERRORS, 429)
SECURITY_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def build_openapi(config: ServeConfig, card: ModelCard | None, needs_key: bool = False) -> Json:
    """Build the document of `/openapi.json`; without `card` it has no shapes, classes or examples."""
    input_spec = InputSpec(card.shape, card.style, config.max_images) if card else None
    info_operation = _build_json_operation(
        "info",
        "Live version, classifier, workers and limits.",
        "Info",
        openapi_examples.build_info_reply(card),
    )
    schema_operation = _build_json_operation(
        "schema", "Service schema for BentoML's clients.", "Any", {"name": "Relearn"}
    )
    docs_operation = _build_json_operation(
        "docs", "BentoML's own OpenAPI document of the service.", "Any", {"openapi": "3.0.2"}
    )
    healthz_operation = _build_health_operation("healthz", "The process is alive; same as /livez.", "alive\n")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Relearn", "version": "1", "description": _describe_service(card)},
        "paths": {
            "/predict": {"post": _build_predict_operation(input_spec, card)},
            "/feedback": {"post": _build_feedback_operation(card)},
            "/info": {"get": info_operation},
            "/livez": {"get": _build_health_operation("livez", "The process is alive.", "alive\n")},
            "/healthz": {"get": healthz_operation},
            "/readyz": {
                "get": _build_health_operation(
                    "readyz", "Predictions work; each check predicts one image.", "ready\n"
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
        return "No model is released yet: /predict returns 503."
    shape_text = " × ".join(map(str, card.shape))
    return f"Classifies images of {card.dataset}, {shape_text}, into {len(card.classes)} classes."


def _build_predict_operation(input_spec: InputSpec | None, card: ModelCard | None) -> Json:
    content: Json = {name: {"schema": {"type": "string", "contentMediaType": name}} for name in MEDIA_TYPES}
    content["application/json"] = {"schema": schemas.schema_reference("Images")}
    content[MULTIPART_TYPE] = {
        "schema": schemas.multipart_schema(input_spec),
        "encoding": {"file": {"contentType": ", ".join(IMAGE_TYPES)}},
    }
    if input_spec:
        content["application/json"]["examples"] = openapi_examples.build_predict_requests(input_spec)
    top_k_description = "Number of classes per image in the response, the most likely first."
    return {
        "operationId": "predict",
        "summary": "Predict a label and the probability of every class for each image.",
        "parameters": [
            _build_query_parameter("top_k", top_k_description, schemas.top_k_schema(card)),
            _build_query_parameter("version", "Fail with 404 unless this version is live.", schemas.STRING),
            _build_query_parameter(
                "return_input",
                "Return each image as the network received it.",
                schemas.boolean_schema(default=False),
            ),
            _build_query_parameter(
                "log", "Allow an entry in the prediction log.", schemas.boolean_schema(default=True)
            ),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _build_json_response(
                "One prediction for each image; for a blank drawing a reason.",
                "Predictions",
                openapi_examples.build_predict_reply(card),
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
        "summary": "Correct the label of a predicted image; with the image it can become training data.",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": _build_json_response(
                "The correction is saved, even if the prediction was not logged.",
                "FeedbackReceipt",
                openapi_examples.FEEDBACK_REPLY,
            ),
            **_reference_errors(*ERROR_RESPONSES),
        },
    }


def _build_page_paths() -> Json:
    """Build the paths of the draw page; they need no key, because the page asks for it."""
    operation = {"operationId": "root", "summary": "Redirect to the draw page.", "security": []}
    responses = {
        "responses": {"307": {"description": "Redirect to /draw."}, **_reference_errors(*HEALTH_ERRORS, 429)}
    }
    return {"/": {"get": operation | responses}} | {
        path: {
            "get": {
                "operationId": path.strip("/").replace("/", "_").replace(".", "_"),
                "summary": "The draw page." if path == "/draw" else "A file of the draw page.",
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
        "metrics", "Metrics in Prometheus' format.", openapi_examples.METRICS_TEXT, METRICS_ERRORS
    )


def _build_json_response(description: str, schema_name: str, example: Any) -> Json:
    content = {"schema": schemas.schema_reference(schema_name)} | ({"example": example} if example else {})
    return {"description": description, "content": {"application/json": content}}


def _build_error_response(status: int) -> Json:
    code, description = ERROR_RESPONSES[status]
    return _build_json_response(description, "Error", openapi_examples.build_error_reply(code))


def _reference_errors(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
