"""The ASGI application: routes, dispatch and error handling."""

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relearn.model.errors import CorruptDataError, RelearnError
from relearn.serving.api.health import HEALTH_PATHS, check_ready, report_live
from relearn.serving.api.openapi import build_openapi
from relearn.serving.api.responses import NO_CONTENT, build_info_response, build_predictions
from relearn.serving.config import MODEL_CORRUPT_CODE, ServeConfig
from relearn.serving.http import hosts, requests
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.concurrency import ConcurrencyLimiter
from relearn.serving.http.errors import HTTPError, build_error_response
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.input_spec import InputSpec
from relearn.serving.inputs.parse_body import MEDIA_TYPES, is_cheap_to_parse, parse_body
from relearn.serving.inputs.predict_options import PARAMETER_NAMES, PredictOptions
from relearn.serving.logger import logger
from relearn.serving.metrics.prometheus import Metrics
from relearn.serving.page.draw_page import PAGE_FILES, DrawPage
from relearn.serving.predictions import feedback
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.runtime.batching import MicroBatcher
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir

RouteHandler = Callable[[Request, str], Awaitable[Response]]

# Bodies up to this size hold a few images of 28 × 28. Parsing and predicting them takes less than 1 ms, less
# than handing them to a thread. Larger bodies and all image files are processed in a thread.
MAX_INLINE_BODY_BYTES = 8_192

# Served under any load, so that an overload stays visible.
EXEMPT_FROM_LIMIT = (*HEALTH_PATHS, "/metrics")
PUBLIC_PATHS = (*HEALTH_PATHS, "/", *PAGE_FILES)  # served without a key; the page asks for one
QUERY_PARAMETERS_BY_PATH = {"/predict": PARAMETER_NAMES}


class PredictionApp:
    """The ASGI application of worker number `worker_index`; all workers share `worker_status_dir`.

    `bundled_model` is the first model served: None before the first release, an error if it is corrupt.
    Predictions are logged to `prediction_log_folder`, if it is given and `config.log_predictions` is on.
    """

    def __init__(
        self,
        config: ServeConfig,
        worker_status_dir: WorkerStatusDir,
        api_keys: ApiKeys,
        worker_index: int = 1,
        bundled_model: ServedModel | CorruptDataError | None = None,
        get_bentoml_schemas: Callable[[], dict[str, Any]] = dict,
        prediction_log_folder: Path | None = None,
    ) -> None:
        self.config = config
        self.worker_status_dir = worker_status_dir
        self.worker_index = worker_index
        self.served_model = bundled_model if isinstance(bundled_model, ServedModel) else None
        self.is_model_corrupt = isinstance(bundled_model, CorruptDataError)
        self.serving_since = datetime.now(UTC)
        self.metrics = Metrics(prediction_log_folder, config.workers)
        self.api_keys = api_keys
        self.get_bentoml_schemas = get_bentoml_schemas
        self.limiter = ConcurrencyLimiter(config.max_concurrency, self.metrics.orphaned_threads)
        enabled_log_folder = prediction_log_folder if config.log_predictions else None
        self.prediction_log = (
            PredictionLog(enabled_log_folder, config, worker_index, self.metrics.dropped_predictions.inc)
            if enabled_log_folder
            else None
        )
        self.batcher = MicroBatcher()
        self.draw_page = DrawPage(bool(api_keys))
        self.routes: dict[str, dict[str, RouteHandler]] = {
            "/predict": {"POST": self.predict},
            "/feedback": {"POST": self.feedback},
            "/livez": {"GET": self.livez},
            "/healthz": {"GET": self.livez},  # BentoML's name for it
            "/readyz": {"GET": self.readyz},
            "/info": {"GET": self.info},
            "/metrics": {"GET": self.get_metrics},
            "/openapi.json": {"GET": self.openapi},
            "/docs.json": {"GET": self.bentoml_schema},
            "/schema.json": {"GET": self.bentoml_schema},
            "/": {"GET": self.root},
            **{path: {"GET": self.serve_page} for path in PAGE_FILES},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request; every error becomes a response."""
        start = time.perf_counter()
        request = Request(scope, receive)
        request_id = requests.get_or_create_request_id(request)
        try:
            async with asyncio.timeout(self.config.timeout_seconds):
                response = await self._dispatch(request, request_id)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops, and its graceful timeout is over
            response = self._handle_error(HTTPError(503, "stopping", "server: it is stopping"), request_id)
        except TimeoutError:
            message = f"request: not finished within {self.config.timeout_seconds:g} seconds"
            response = self._handle_error(
                HTTPError(504, "timeout", message, {"connection": "close"}), request_id
            )
        except RelearnError as error:
            response = self._handle_error(error, request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            response = self._handle_error(RelearnError("unexpected error", "internal_error"), request_id)
        response.headers.update({requests.REQUEST_ID_HEADER: request_id, **requests.SECURITY_HEADERS})
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.metrics.observe_request(route, response.status_code, time.perf_counter() - start)
        if (
            response.status_code < 400
            or "connection" in response.headers
            or requests.is_body_consumed(request)
        ):
            await response(scope, receive, send)
        else:
            await requests.send_and_close(request, response, send, self.config.max_body_bytes)

    def _handle_error(self, error: RelearnError, request_id: str) -> Response:
        self.metrics.request_errors.labels(error.code).inc()
        return build_error_response(error, request_id)

    async def _dispatch(self, request: Request, request_id: str) -> Response:
        path = request.scope["path"]
        if not self.api_keys:
            hosts.check_trusted_host(request)
        elif path not in PUBLIC_PATHS:
            self.api_keys.authenticate(request)
        handler = self._find_handler(request)
        requests.check_query_parameters(request, QUERY_PARAMETERS_BY_PATH.get(path, ()))
        if path in EXEMPT_FROM_LIMIT:
            return await handler(request, request_id)
        with self.limiter.slot():
            return await handler(request, request_id)

    def _find_handler(self, request: Request) -> RouteHandler:
        """Return the handler of the request; raise `HTTPError` 404 for its path, 405 for its method."""
        handlers = self.routes.get(request.scope["path"])
        if handlers is None:
            raise HTTPError(404, "not_found", f"path: accepted: {', '.join(self.routes)}")
        handler = handlers.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed_methods = ", ".join([*handlers, "HEAD"] if "GET" in handlers else handlers)
            raise HTTPError(
                405, "method_not_allowed", f"method: accepted: {allowed_methods}", {"allow": allowed_methods}
            )
        return handler

    def set_model(self, served_model: ServedModel) -> None:
        """Serve `served_model` from the next request on."""
        if self.served_model and self.served_model.version != served_model.version:
            self.metrics.model_reloads.inc()
        self.served_model, self.is_model_corrupt, self.serving_since = served_model, False, datetime.now(UTC)

    def publish_status(self, load_error: tuple[str, str] | None = None) -> None:
        """Write this worker's status file: the served version and, if a release failed to load, `load_error`.

        `load_error` is the version of that release and the reason.
        """
        version = self.served_model.version if self.served_model else None
        self.metrics.set_version(version, load_error[0] if load_error else None)
        status = {
            "worker": self.worker_index,
            "pid": os.getpid(),
            "version": version,
            "serving_since": self.serving_since.isoformat(timespec="milliseconds"),
            "load_error": {"version": load_error[0], "reason": load_error[1]} if load_error else None,
        }
        try:
            self.worker_status_dir.write(self.worker_index, status)
        except OSError as error:
            logger.error("the worker status cannot be published: %s", error)

    def _require_model(self) -> ServedModel:
        if self.is_model_corrupt:
            raise HTTPError(
                503, MODEL_CORRUPT_CODE, "the released classifier is corrupt; the log has the details"
            )
        if self.served_model is None:
            raise HTTPError(503, "no_release", "no classifier is released yet")
        return self.served_model

    async def predict(self, request: Request, request_id: str) -> Response:
        """Predict a label and the probability of every class for each image."""
        served_model = self._require_model()
        options = PredictOptions.from_request(
            request, served_model.version, len(served_model.classifier.card.classes)
        )
        media_type = requests.parse_media_type(request, MEDIA_TYPES)
        body = await requests.read_body(request, self.config.max_body_bytes)
        if (
            served_model.is_fast
            and len(body) <= MAX_INLINE_BODY_BYTES
            and is_cheap_to_parse(media_type, body)
        ):
            images = self._parse_images(served_model, media_type, body)
            probabilities = await self.batcher.predict(served_model.classifier, images)
            content = self._log_and_encode(served_model, images, probabilities, request_id, options)
        else:
            content = await self.limiter.run_in_thread(
                self._parse_and_predict, served_model, media_type, body, request_id, options
            )
        return Response(content, media_type="application/json")

    def predict_images(self, images: np.ndarray) -> dict[str, Any]:
        """Predict `images`, uint8 in any accepted shape, without HTTP; return the content of `/predict`."""
        served_model = self._require_model()
        images = images.reshape(-1, *served_model.classifier.card.shape)
        content = self._log_and_encode(
            served_model, images, served_model.classifier.predict(images), uuid.uuid4().hex, PredictOptions()
        )
        return msgspec.json.decode(content, type=dict[str, Any])

    def _parse_and_predict(
        self,
        served_model: ServedModel,
        media_type: MediaType,
        body: bytes,
        request_id: str,
        options: PredictOptions,
    ) -> bytes:
        images = self._parse_images(served_model, media_type, body)
        return self._log_and_encode(
            served_model, images, served_model.classifier.predict(images), request_id, options
        )

    def _parse_images(self, served_model: ServedModel, media_type: MediaType, body: bytes) -> np.ndarray:
        card = served_model.classifier.card
        return parse_body(media_type, body, InputSpec(card.shape, card.style, self.config.max_images))

    def _log_and_encode(
        self,
        served_model: ServedModel,
        images: np.ndarray,
        probabilities: np.ndarray,
        request_id: str,
        options: PredictOptions,
    ) -> bytes:
        """Log and count the predictions; return the response as JSON.

        `probabilities` is float32 (n, classes).
        """
        classifier = served_model.classifier
        is_blank = classifier.find_blank(images)
        answered = np.flatnonzero(~is_blank)
        if len(answered) < len(images):  # no answer says nothing about drift
            self.metrics.no_answers.labels(served_model.version, NO_CONTENT).inc(int(is_blank.sum()))
        if self.prediction_log and options.should_log and len(answered):
            self.prediction_log.log(
                request_id, served_model, images[answered], probabilities[answered], answered
            )
        labels = classifier.to_labels(probabilities)
        self.metrics.observe_predictions(
            served_model.version, [labels[index] for index in answered], probabilities[answered].max(axis=1)
        )
        metadata = {"version": served_model.version, "worker": self.worker_index, "request_id": request_id}
        predictions = build_predictions(
            images, labels, probabilities, is_blank, classifier.card.classes, options
        )
        return msgspec.json.encode(metadata | {"predictions": predictions})

    async def feedback(self, request: Request, request_id: str) -> Response:
        """Save a label correction in the prediction log; return whether its image is stored."""
        card = self._require_model().classifier.card
        requests.parse_media_type(request, ("application/json",))
        body = await requests.read_body(request, self.config.max_body_bytes)
        user_feedback = await self.limiter.run_in_thread(feedback.parse_feedback, body, card)
        if self.prediction_log is None:
            raise HTTPError(409, "prediction_log_off", "feedback: the prediction log of this server is off")
        await asyncio.to_thread(self.prediction_log.log_feedback, user_feedback)
        reply = feedback.build_feedback_response(
            user_feedback.pixels is not None, self.prediction_log.should_log_images(user_feedback.request_id)
        )
        content = {"worker": self.worker_index, "request_id": request_id} | reply
        return Response(msgspec.json.encode(content), media_type="application/json")

    async def livez(self, _request: Request, _request_id: str) -> Response:
        """Report that the process is alive, with or without a model."""
        return report_live()

    async def readyz(self, _request: Request, _request_id: str) -> Response:
        """Predict a blank image; report success and the served version."""
        return await check_ready(self._require_model(), self.limiter)

    async def info(self, _request: Request, _request_id: str) -> Response:
        """Return the live version, its classifier, the status of all workers, and the limits."""
        workers = await asyncio.to_thread(self.worker_status_dir.read)
        content = {"worker": self.worker_index, "workers": workers} | build_info_response(
            self.served_model, self.serving_since, self.config
        )
        return Response(msgspec.json.encode(content), media_type="application/json")

    async def bentoml_schema(self, request: Request, _request_id: str) -> Response:
        """Return BentoML's own description of the service, which BentoML's clients read."""
        document = self.get_bentoml_schemas()[request.scope["path"]]
        return Response(msgspec.json.encode(document), media_type="application/json")

    async def get_metrics(self, _request: Request, _request_id: str) -> Response:
        """Return the metrics of all workers, and those that flows wrote to files, for Prometheus."""
        return await asyncio.to_thread(self.metrics.render)

    async def openapi(self, _request: Request, _request_id: str) -> Response:
        """Return the OpenAPI document, with the shapes and classes of the served classifier."""
        card = self.served_model.classifier.card if self.served_model else None
        return Response(
            msgspec.json.encode(build_openapi(self.config, card, bool(self.api_keys))),
            media_type="application/json",
        )

    async def root(self, _request: Request, _request_id: str) -> Response:
        """Redirect to the draw page."""
        return self.draw_page.redirect()

    async def serve_page(self, request: Request, _request_id: str) -> Response:
        """Return the draw page or one of its files."""
        return self.draw_page.build_file_response(request.scope["path"])
