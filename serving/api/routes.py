"""The table of routes."""

import re

from starlette.requests import Request
from starlette.responses import Response

from relearn.serving.api.app import PredictionApp
from relearn.serving.api.inference_protocol import InferRequest, InferResponse, ModelMetadata, ServerMetadata
from relearn.serving.api.openapi import build_openapi
from relearn.serving.api.operations import Operation
from relearn.serving.api.responses import FeedbackReceipt, Info, Predictions, build_json_response
from relearn.serving.inputs.parse_body import MEDIA_TYPES
from relearn.serving.inputs.parse_json import PredictRequest
from relearn.serving.inputs.predict_options import PARAMETERS
from relearn.serving.page.pages import PAGE_FILES
from relearn.serving.predictions.feedback import FeedbackRequest

MODEL_PATH = "/v2/models/{model_name}"
_JSON = "application/json"
PREDICTIONS, MODEL, HEALTH, PAGES = "predictions", "model", "health and metrics", "pages"
INFERENCE_PROTOCOL = "Open Inference Protocol"  # KServe's and Triton's clients speak it
BENTOML = "BentoML's clients"
_BODY_ERRORS = (400, 404, 413, 415)


async def openapi(app: PredictionApp, _request: Request, _request_id: str) -> Response:
    """Return the document of this API, with the shapes and classes of the served classifier."""
    card = app.served_model.classifier.card if app.served_model else None
    return build_json_response(build_openapi(OPERATIONS, app.config, card, bool(app.api_keys)))


# All routes. Health and metrics are served under any load, so that an overload stays visible.
OPERATIONS = (
    Operation(
        PREDICTIONS,
        "POST",
        "/predict",
        PredictionApp.predict,
        Predictions,
        PredictRequest,
        MEDIA_TYPES,
        PARAMETERS,
        extra_errors=_BODY_ERRORS,
    ),
    Operation(
        PREDICTIONS,
        "POST",
        "/feedback",
        PredictionApp.feedback,
        FeedbackReceipt,
        FeedbackRequest,
        (_JSON,),
        extra_errors=(*_BODY_ERRORS, 409),
    ),
    Operation(MODEL, "GET", "/info", PredictionApp.info, Info),
    *(
        Operation(HEALTH, "GET", path, handler, "text/plain", is_public=True, is_limited=False)
        for path, handler in (
            ("/livez", PredictionApp.livez),
            ("/healthz", PredictionApp.livez),
            ("/readyz", PredictionApp.readyz),
            ("/v2/health/live", PredictionApp.livez),
            ("/v2/health/ready", PredictionApp.readyz),
        )
    ),
    Operation(HEALTH, "GET", "/metrics", PredictionApp.get_metrics, "text/plain", is_limited=False),
    Operation(MODEL, "GET", "/openapi.json", openapi, _JSON),
    Operation(BENTOML, "GET", "/schema.json", PredictionApp.bentoml_schema, _JSON),
    Operation(BENTOML, "GET", "/docs.json", PredictionApp.bentoml_schema, _JSON),
    Operation(INFERENCE_PROTOCOL, "GET", "/v2", PredictionApp.describe_server, ServerMetadata),
    Operation(
        INFERENCE_PROTOCOL,
        "GET",
        MODEL_PATH,
        PredictionApp.describe_model,
        ModelMetadata,
        extra_errors=(404,),
    ),
    Operation(
        HEALTH,
        "GET",
        f"{MODEL_PATH}/ready",
        PredictionApp.model_ready,
        "text/plain",
        is_limited=False,
        extra_errors=(404,),
    ),
    Operation(
        INFERENCE_PROTOCOL,
        "POST",
        f"{MODEL_PATH}/infer",
        PredictionApp.infer,
        InferResponse,
        InferRequest,
        (_JSON,),
        extra_errors=_BODY_ERRORS,
    ),
    Operation(PAGES, "GET", "/", PredictionApp.root, "text/html", is_public=True),
    *(
        Operation(PAGES, "GET", path, PredictionApp.serve_page, media_type, is_public=True)
        for path, (_, media_type) in PAGE_FILES.items()
    ),
)
# A slash at the end of a path that takes a body changes nothing; a page's links would lead elsewhere.
OPERATION_BY_PATH = {operation.path: operation for operation in OPERATIONS} | {
    f"{operation.path}/": operation for operation in OPERATIONS if operation.method == "POST"
}


def find_operation(path: str) -> Operation | None:
    """Return the operation of a path, None if there is none."""
    return OPERATION_BY_PATH.get(path) or OPERATION_BY_PATH.get(re.sub("^/v2/models/[^/]+", MODEL_PATH, path))
