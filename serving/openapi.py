"""The API in the words of OpenAPI 3.1: shapes and classes are those of the classifier being served."""

from typing import Any

from relearn.model.classifier import Card
from relearn.serving import examples, schemas
from relearn.serving.accepted import Accepted
from relearn.serving.draw import FILES
from relearn.serving.inputs import FORM, MEDIA_TYPES
from relearn.serving.pictures import PICTURES
from relearn.serving.schemas import Json
from relearn.serving.settings import ServeConfig

REFUSALS = {
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
HEALTH = (403, 422, 500, 503, 504)  # of routes that need no key, and are never too many
COUNTED = (401, *HEALTH)
TOLD = (*COUNTED, 429)
SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def describe(config: ServeConfig, card: Card | None, needs_key: bool = False) -> Json:
    """The document behind `/openapi.json`; without a `card`, shapes, classes and examples are left open."""
    accepted = Accepted(card.shape, card.style, config.max_images) if card else None
    info = _told("info", "What is live, on which worker, and the limits.", "Info", examples.info(card))
    schema = _told("schema", "What BentoML's clients read.", "Any", {"name": "Relearn"})
    docs = _told("docs", "The service as BentoML tells it.", "Any", {"openapi": "3.0.2"})
    healthz = _health("healthz", "The process answers: another name of /livez.", "alive\n")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Relearn", "version": "1", "description": _about(card)},
        "paths": {
            "/predict": {"post": _predict(accepted, card)},
            "/feedback": {"post": _feedback(card)},
            "/info": {"get": info},
            "/livez": {"get": _health("livez", "The process answers.", "alive\n")},
            "/healthz": {"get": healthz},
            "/readyz": {"get": _health("readyz", "Predictions are answered: one was, just now.", "ready\n")},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _told("openapi", "This document.", "Any", {"openapi": "3.1.0"})},
            "/schema.json": {"get": schema},
            "/docs.json": {"get": docs},
            **_page(),
        },
        "components": {
            "schemas": schemas.by_name(accepted, card),
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "securitySchemes": SECURITY if needs_key else {},
        },
        "security": [{name: []} for name in SECURITY] if needs_key else [],
    }


def _about(card: Card | None) -> str:
    if card is None:
        return "Nothing is released yet: /predict answers 503."
    shape = " × ".join(map(str, card.shape))
    return f"Reads images of {card.dataset}, {shape}, into {len(card.classes)} classes."


def _predict(accepted: Accepted | None, card: Card | None) -> Json:
    content: Json = {name: {"schema": {"type": "string", "contentMediaType": name}} for name in MEDIA_TYPES}
    content["application/json"] = {"schema": schemas.reference("Images")}
    content[FORM] = {
        "schema": schemas.form(accepted),
        "encoding": {"file": {"contentType": ", ".join(PICTURES)}},
    }
    if accepted:
        content["application/json"]["examples"] = examples.bodies(accepted)
    fewer = "Tell only so many classes of each image, the most likely first."
    return {
        "operationId": "predict",
        "summary": "Images in; for each of them a label and the probability of every class.",
        "parameters": [
            _parameter("top_k", fewer, schemas.top_k(card)),
            _parameter("version", "Be answered by this version or not at all.", schemas.STRING),
            _parameter("seen", "Tell each image as the network saw it, too.", schemas.flag(default=False)),
            _parameter("record", "Whether this request may be recorded.", schemas.flag(default=True)),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": _answer("One prediction for each image.", "Predictions", examples.predictions(card)),
            **_refusals(*(status for status in REFUSALS if status != 409)),
        },
    }


def _feedback(card: Card | None) -> Json:
    body: Json = {"schema": schemas.reference("Feedback")}
    if card:
        body["examples"] = {"wrong": {"value": examples.feedback(card)}}
    return {
        "operationId": "feedback",
        "summary": "What an image shows that was predicted; with the image it can become training data.",
        "requestBody": {"required": True, "content": {"application/json": body}},
        "responses": {
            "200": _answer("It is kept, whether or not that prediction was recorded.", "Kept", examples.KEPT),
            **_refusals(*REFUSALS),
        },
    }


def _page() -> Json:
    """The page to draw on: open to everybody, for it asks for a key."""
    lead = {"operationId": "root", "summary": "Leads to the page.", "security": []}
    leads = {"responses": {"307": {"description": "To /draw."}, **_refusals(*HEALTH, 429)}}
    return {"/": {"get": lead | leads}} | {
        path: {
            "get": {
                "operationId": path.strip("/").replace("/", "_").replace(".", "_"),
                "summary": "The page to draw on." if path == "/draw" else "A file of the page.",
                "security": [],
                "responses": {
                    "200": {"description": "The file.", "content": {kind: {"schema": schemas.STRING}}},
                    **_refusals(*HEALTH, 429),
                },
            }
        }
        for path, (_, kind) in FILES.items()
    }


def _parameter(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _told(name: str, summary: str, schema: str, example: Any) -> Json:
    answer = _answer(summary, schema, example)
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **_refusals(*TOLD)}}


def _text(name: str, summary: str, example: str, refusals: tuple[int, ...]) -> Json:
    content = {"text/plain": {"schema": schemas.STRING, "example": example}}
    answer = {"description": summary, "content": content}
    return {"operationId": name, "summary": summary, "responses": {"200": answer, **_refusals(*refusals)}}


def _health(name: str, summary: str, example: str) -> Json:
    return _text(name, summary, example, HEALTH) | {"security": []}


def _metrics() -> Json:
    return _text("metrics", "Counters in Prometheus' format.", examples.METRICS, COUNTED)


def _answer(description: str, schema: str, example: Any) -> Json:
    content = {"schema": schemas.reference(schema)} | ({"example": example} if example else {})
    return {"description": description, "content": {"application/json": content}}


def _refusal(status: int) -> Json:
    code, description = REFUSALS[status]
    return _answer(description, "Error", examples.refusal(code))


def _refusals(*statuses: int) -> Json:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
