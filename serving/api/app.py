"""The state and the endpoints of a worker; `serving.api.routes` lists their paths."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from relearn.model.errors import CorruptDataError, InvalidModelOutputError
from relearn.serving.api import inference_protocol
from relearn.serving.api.health import check_ready, report_live
from relearn.serving.api.inference_protocol import (
    PLATFORM,
    ServerMetadata,
)
from relearn.serving.api.responses import (
    FeedbackReceipt,
    Predictions,
    Worker,
    build_info,
    build_json_response,
    build_predictions,
)
from relearn.serving.config import MODEL_CORRUPT_CODE, ServeConfig
from relearn.serving.http import requests
from relearn.serving.http.api_keys import ApiKeys
from relearn.serving.http.concurrency import ConcurrencyLimiter
from relearn.serving.http.errors import HTTPError
from relearn.serving.http.hosts import AccessRules
from relearn.serving.http.requests import MediaType
from relearn.serving.inputs.input_spec import NO_CONTENT, InputSpec
from relearn.serving.inputs.parse_body import JSON_TYPE, is_cheap_to_parse, parse_body, recognize_media_type
from relearn.serving.inputs.predict_options import PredictOptions
from relearn.serving.logger import logger
from relearn.serving.metrics.prometheus import Metrics
from relearn.serving.page.pages import Pages
from relearn.serving.predictions import feedback
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.runtime.batching import MicroBatcher
from relearn.serving.runtime.hot_reload import ServedModel
from relearn.serving.runtime.worker_status import WorkerStatusDir

# Bodies up to this size hold a few images of 28 × 28. Parsing and predicting them takes less than 1 ms, less
# than handing them to a thread. Larger bodies and all image files are processed in a thread.
MAX_INLINE_BODY_BYTES = 8_192


class PredictionApp:
    """The endpoints of worker number `worker_index`; all workers share `worker_status_dir`.

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
        self.model_error = bundled_model if isinstance(bundled_model, CorruptDataError) else None
        self.serving_since = datetime.now(UTC)
        self.metrics = Metrics(prediction_log_folder, config.workers)
        self.api_keys = api_keys
        self.access_rules = AccessRules(config, bool(api_keys))
        self.get_bentoml_schemas = get_bentoml_schemas
        self.limiter = ConcurrencyLimiter(config.max_concurrency, self.metrics.orphaned_threads)
        enabled_log_folder = prediction_log_folder if config.log_predictions else None
        self.prediction_log = (
            PredictionLog(enabled_log_folder, config, worker_index, self.metrics.dropped_predictions.inc)
            if enabled_log_folder
            else None
        )
        self.batcher = MicroBatcher()
        self.pages = Pages(bool(api_keys))

    def set_model(self, served_model: ServedModel) -> None:
        """Serve `served_model` from the next request on."""
        if self.served_model and self.served_model.version != served_model.version:
            self.metrics.model_reloads.inc()
        self.served_model, self.model_error, self.serving_since = served_model, None, datetime.now(UTC)

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
        if isinstance(self.model_error, InvalidModelOutputError):
            raise HTTPError(503, self.model_error.code, self.model_error.public_message)
        if self.model_error:
            raise HTTPError(
                503, MODEL_CORRUPT_CODE, "the released classifier is corrupt; the log has the details"
            )
        if self.served_model is None:
            raise HTTPError(503, "no_release", "no classifier is released yet")
        return self.served_model

    def _require_named_model(self, request: Request) -> ServedModel:
        served_model = self._require_model()
        inference_protocol.check_model_name(request.scope["path"].split("/")[3], served_model.classifier.card)
        return served_model

    async def _read_json(self, request: Request) -> bytes:
        """Read a body that must be JSON; as for `/predict`, its content may decide its type."""
        declared_type = requests.parse_media_type(request)
        body = await requests.read_body(request, self.config.max_body_bytes)
        recognize_media_type(declared_type, body, (JSON_TYPE,))
        return body

    async def predict(self, request: Request, request_id: str) -> Response:
        """Predict a label and the probability of every class for each image."""
        served_model = self._require_model()
        options = PredictOptions.from_request(
            request, served_model.version, len(served_model.classifier.card.classes)
        )
        declared_type = requests.parse_media_type(request)
        body = await requests.read_body(request, self.config.max_body_bytes)
        client = requests.get_client_address(request)
        media_type = recognize_media_type(declared_type, body)
        if not (len(body) <= MAX_INLINE_BODY_BYTES and is_cheap_to_parse(media_type, body)):
            content = await self.limiter.run_in_thread(
                client, self._parse_and_predict, served_model, media_type, body, request_id, options
            )
            return Response(content, media_type="application/json")
        images = self._parse_images(served_model, media_type, body)
        if len(images) <= served_model.inline_images:
            probabilities = await self.batcher.predict(served_model, images)
            content = self._log_and_encode(served_model, images, probabilities, request_id, options)
        else:
            content = await self.limiter.run_in_thread(
                client, self._predict_and_encode, served_model, images, request_id, options
            )
        return Response(content, media_type="application/json")

    def predict_images(self, images: np.ndarray) -> dict[str, Any]:
        """Predict `images`, uint8 in any accepted shape, without HTTP; return the content of `/predict`."""
        served_model = self._require_model()
        images = InputSpec.from_card(served_model.classifier.card, self.config.max_images).to_batch(images)
        request_id = requests.create_request_id()
        content = self._predict_and_encode(served_model, images, request_id, PredictOptions())
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
        return self._predict_and_encode(served_model, images, request_id, options)

    def _predict_and_encode(
        self, served_model: ServedModel, images: np.ndarray, request_id: str, options: PredictOptions
    ) -> bytes:
        return self._log_and_encode(served_model, images, served_model.predict(images), request_id, options)

    def _parse_images(self, served_model: ServedModel, media_type: MediaType, body: bytes) -> np.ndarray:
        card = served_model.classifier.card
        return parse_body(media_type, body, InputSpec.from_card(card, self.config.max_images))

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
        is_blank = served_model.classifier.find_blank(images)
        labels = self._record(served_model, images, probabilities, is_blank, request_id, options)
        classes = served_model.classifier.card.classes
        predictions = build_predictions(images, labels, probabilities, is_blank, classes, options)
        return msgspec.json.encode(
            Predictions(served_model.version, self.worker_index, request_id, predictions)
        )

    def _record(
        self,
        served_model: ServedModel,
        images: np.ndarray,
        probabilities: np.ndarray,
        is_blank: np.ndarray,
        request_id: str,
        options: PredictOptions,
    ) -> list[str]:
        """Log and count the predictions; return all labels.

        Blank images, bool (n,), have no answer. They are counted apart, since they say nothing about drift.
        """
        labels = served_model.classifier.to_labels(probabilities)
        answered_labels, indices = labels, list(range(len(images)))
        if is_blank.any():
            self.metrics.no_answers.labels(served_model.version, NO_CONTENT).inc(int(is_blank.sum()))
            indices = np.flatnonzero(~is_blank).tolist()
            images, probabilities = images[indices], probabilities[indices]
            answered_labels = [labels[index] for index in indices]
        if indices:
            if self.prediction_log and options.should_log:
                self.prediction_log.log(request_id, served_model, images, probabilities, indices)
            self.metrics.observe_predictions(served_model.version, answered_labels, probabilities.max(1))
        return labels

    async def infer(self, request: Request, request_id: str) -> Response:
        """Predict a tensor of images, as the Open Inference Protocol v2 describes it."""
        served_model = self._require_named_model(request)
        inference_protocol.check_no_binary_tensors(request)
        body = await self._read_json(request)
        client = requests.get_client_address(request)
        return await self.limiter.run_in_thread(client, self._infer, served_model, body, request_id)

    def _infer(self, served_model: ServedModel, body: bytes, request_id: str) -> Response:
        card = served_model.classifier.card
        input_spec = InputSpec.from_card(card, self.config.max_images)
        infer_request, images = inference_protocol.parse_infer_request(body, input_spec)
        input_spec.check_content(images)  # the protocol has no null among labels
        probabilities = served_model.predict(images)
        is_blank = np.zeros(len(images), bool)
        labels = self._record(served_model, images, probabilities, is_blank, request_id, PredictOptions())
        return build_json_response(
            inference_protocol.build_infer_response(
                infer_request, request_id, card, served_model.version, labels, probabilities
            )
        )

    async def describe_model(self, request: Request, _request_id: str) -> Response:
        """Return inputs and outputs of the live version, as the Open Inference Protocol v2 describes them."""
        served_model = self._require_named_model(request)
        return build_json_response(
            inference_protocol.describe_model(served_model.classifier.card, served_model.version)
        )

    async def model_ready(self, request: Request, _request_id: str) -> Response:
        """Report readiness as `/readyz` does, for the model of this name."""
        return await check_ready(self._require_named_model(request), self.limiter)

    async def describe_server(self, _request: Request, _request_id: str) -> Response:
        """Return the name of the server, as the Open Inference Protocol v2 describes it."""
        return build_json_response(ServerMetadata(PLATFORM, "1", []))

    async def feedback(self, request: Request, request_id: str) -> Response:
        """Save a label correction in the prediction log; return whether its image is stored."""
        card = self._require_model().classifier.card
        body = await self._read_json(request)
        user_feedback = await self.limiter.run_in_thread(
            requests.get_client_address(request), feedback.parse_feedback, body, card
        )
        if self.prediction_log is None:
            raise HTTPError(409, "prediction_log_off", "feedback: the prediction log of this server is off")
        await asyncio.to_thread(self.prediction_log.log_feedback, user_feedback)
        image, note = feedback.describe_image_use(
            user_feedback.pixels is not None, self.prediction_log.should_log_images(user_feedback.request_id)
        )
        return build_json_response(FeedbackReceipt(self.worker_index, request_id, image, note))

    async def livez(self, _request: Request, _request_id: str) -> Response:
        """Report that the process is alive, with or without a model; `/healthz` is BentoML's name for it."""
        return report_live()

    async def readyz(self, _request: Request, _request_id: str) -> Response:
        """Predict a blank image; report success and the served version."""
        return await check_ready(self._require_model(), self.limiter)

    async def info(self, _request: Request, _request_id: str) -> Response:
        """Return the live version, its classifier, the status of all workers, and the limits."""
        statuses = await asyncio.to_thread(self.worker_status_dir.read)
        workers = msgspec.convert(statuses, list[Worker])
        return build_json_response(
            build_info(self.served_model, self.serving_since, self.config, self.worker_index, workers)
        )

    async def bentoml_schema(self, request: Request, _request_id: str) -> Response:
        """Return BentoML's own description of the service, which BentoML's clients read."""
        return build_json_response(self.get_bentoml_schemas()[request.scope["path"]])

    async def get_metrics(self, _request: Request, _request_id: str) -> Response:
        """Return the metrics of all workers, and those that flows wrote to files, for Prometheus."""
        return await asyncio.to_thread(self.metrics.render)

    async def root(self, _request: Request, _request_id: str) -> Response:
        """Redirect to the draw page."""
        return self.pages.redirect()

    async def serve_page(self, request: Request, _request_id: str) -> Response:
        """Return a page, or one of its files."""
        # Read here, in less than a millisecond: in threads, the files of one page would exceed a low limit of
        # concurrent requests.
        return self.pages.build_file_response(request.scope["path"])
