"""The prediction log: predictions, sampled images and feedback, written outside the request path.

One folder for each model name, shared by all workers of all servers: JSON lines with the fields of
`relearn.serving.predictions.entries`. One line of pandas reads a file: `pd.read_json(file, lines=True)`.

Reason for this format: pandas, DuckDB and jq read it, and a kill leaves one incomplete line at most. A line
costs 3 µs and 610 bytes. Parquet takes 90 bytes a row in large files, but nothing can be appended to a file:
with one for each flush, a single prediction takes 5 kB and 0.3 ms, and a longer interval loses more in a
kill. (10 classes; one of 2 busy cores.)
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from relearn.model.drift.image_statistics import compute_statistics
from relearn.model.errors import InfrastructureError
from relearn.serving.config import ServeConfig
from relearn.serving.logger import logger
from relearn.serving.predictions.entries import Feedback, LoggedImage, Prediction
from relearn.serving.predictions.rotation import RotatingFiles

if TYPE_CHECKING:
    from relearn.serving.runtime.hot_reload import ServedModel

FLUSH_INTERVAL_SECONDS = 0.25  # maximum delay from a prediction to its entry; a kill loses no more
MAX_QUEUE_BYTES = 2**25  # of queued images and probabilities; 0.25 s at 40,000 images per second take 2^23
# Feedback is rare and valuable, images are large: separate quotas keep one kind from displacing another.
QUOTAS = {"predictions": 0.5, "images": 0.25, "feedback": 0.25}
ENCODER = msgspec.json.Encoder()


class LoggedRequest(NamedTuple):
    """A predicted request: images uint8 (n, channels, height, width), probabilities float32 (n, classes).

    `indices` are the positions of the images in the request.
    """

    request_id: str
    time: float
    served_model: "ServedModel"
    images: np.ndarray
    probabilities: np.ndarray
    indices: Sequence[int]


class PredictionLog:
    """Writer of one worker to the prediction log of its model.

    `on_dropped` is called with the number of predictions that could not be written.
    """

    def __init__(
        self, folder: Path, config: ServeConfig, worker_index: int, on_dropped: Callable[[int], None]
    ) -> None:
        self.worker_index, self.image_sample_rate = worker_index, config.image_sample_rate
        self._on_dropped = on_dropped
        self._files = {
            kind: RotatingFiles(folder, kind, int(fraction * config.log_max_mb * 1_000_000))
            for kind, fraction in QUOTAS.items()
        }
        self._queue: list[LoggedRequest] = []
        self._queued_bytes, self._is_failing = 0, False
        self._queue_lock, self._feedback_lock = threading.Lock(), threading.Lock()
        self._stop_event = threading.Event()
        self._writer_thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._writer_thread.start()

    def log(
        self,
        request_id: str,
        served_model: "ServedModel",
        images: np.ndarray,
        probabilities: np.ndarray,
        indices: Sequence[int] | None = None,
    ) -> None:
        """Queue the predictions of one request for writing; takes 1 µs and never blocks.

        `indices` are the positions of the images in the request, by default all from 0.
        """
        indices = range(len(images)) if indices is None else indices
        request = LoggedRequest(request_id, time.time(), served_model, images, probabilities, indices)
        request_bytes = images.nbytes + probabilities.nbytes
        with self._queue_lock:
            has_room = self._queued_bytes + request_bytes <= MAX_QUEUE_BYTES
            if has_room:
                self._queue.append(request)
                self._queued_bytes += request_bytes
        if not has_room:
            self._on_dropped(len(images))

    def log_feedback(self, feedback: Feedback) -> None:
        """Write `feedback` before returning; raise `InfrastructureError` if it cannot be written."""
        try:
            with self._feedback_lock:
                self._files["feedback"].append(ENCODER.encode_lines([feedback]))
        except OSError as error:
            logger.error("feedback cannot be written: %s", error)
            raise InfrastructureError(f"feedback cannot be written: {error}", "feedback_not_saved") from None

    def should_log_images(self, request_id: str) -> bool:
        """Return whether the images of this request are logged: a hash of its id, the same in all workers."""
        if not self.image_sample_rate:
            return False
        hash_prefix = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
        return hash_prefix < self.image_sample_rate * 2**64

    def close(self) -> None:
        """Write the queue, but wait 2 s at most: a stopping server has no more time."""
        self._stop_event.set()
        self._writer_thread.join(2)
        if not self._writer_thread.is_alive():
            for files in self._files.values():
                files.close()

    def _run(self) -> None:
        is_last_flush = False
        while not is_last_flush:
            is_last_flush = self._stop_event.wait(FLUSH_INTERVAL_SECONDS)
            with self._queue_lock:
                queue, self._queue, self._queued_bytes = self._queue, [], 0
            for _, requests in groupby(queue, lambda request: request.served_model):
                self._write(list(requests))

    def _write(self, requests: list[LoggedRequest]) -> None:
        """Write the requests of one model; a failure is counted, logged once and never raised."""
        sampled_requests = [request for request in requests if self.should_log_images(request.request_id)]
        try:
            lines = ENCODER.encode_lines(build_predictions(requests, self.worker_index))
            self._files["predictions"].append(lines)
            self._files["images"].append(ENCODER.encode_lines(build_images(sampled_requests)))
        except Exception as error:
            self._on_dropped(sum(len(request.images) for request in requests))
            if not self._is_failing:
                message = "the prediction log cannot be written, requests are still served: %s"
                logger.error(message, error, exc_info=not isinstance(error, OSError))
            self._is_failing = True
        else:
            if self._is_failing:
                logger.warning("the prediction log is written again")
            self._is_failing = False


def build_predictions(requests: list[LoggedRequest], worker_index: int) -> list[Prediction]:
    """Build an entry for each image of requests to one model; every number is the exact float32."""
    probabilities = np.concatenate([request.probabilities for request in requests])
    statistics = compute_statistics(np.concatenate([request.images for request in requests]))
    model = requests[0].served_model
    classes = model.classifier.card.classes
    keys = [(it.request_id, index, it.time) for it in requests for index in it.indices]
    labels = model.classifier.to_labels(probabilities)
    rows = zip(keys, labels, probabilities.tolist(), statistics.tolist(), strict=True)
    return [
        Prediction(*key, worker_index, model.version, label, dict(zip(classes, row, strict=True)), *numbers)
        for key, label, row, numbers in rows
    ]


def build_images(requests: list[LoggedRequest]) -> list[LoggedImage]:
    """Build an entry for each image: key and pixels."""
    return [
        LoggedImage(request.request_id, index, request.time, image.shape, image.tobytes())
        for request in requests
        for index, image in zip(request.indices, request.images, strict=True)
    ]
