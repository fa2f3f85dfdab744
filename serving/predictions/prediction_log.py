"""The prediction log: predictions, sampled images and feedback, written outside the request path.

One folder for each model name, shared by all workers of all servers. `predictions-…` and `images-…` files
are tables of fixed-size rows after a JSON header line with version, classes and columns; `feedback-…`
files are JSON lines. `relearn.serving.predictions.reader` loads them into pandas.

Reason for this format: a row costs 0.08 µs and 140 bytes, a line of JSON 2.8 µs (a tenth of a core at
30,000 images per second) and 350 bytes. Arrow IPC costs 0.14 µs, but 1,432 bytes for a single record, and
at low traffic most records come singly. A row truncated by a kill is recognized by its size. (10 classes;
batches of 1,200 records; one of 2 cores.)
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np

from relearn.model.drift.image_statistics import STATISTICS, compute_statistics
from relearn.model.errors import InfrastructureError
from relearn.serving.config import ServeConfig
from relearn.serving.logger import logger
from relearn.serving.predictions.rotation import RotatingFiles

if TYPE_CHECKING:
    from relearn.serving.runtime.hot_reload import ServedModel


FLUSH_INTERVAL_SECONDS = 0.25  # maximum delay from a prediction to its record; a kill loses no more
MAX_QUEUE_BYTES = 2**25  # of queued images and probabilities; 0.25 s at 40,000 images per second take 2^23
# Feedback is rare and valuable, images are large: separate quotas keep one kind from displacing another.
QUOTAS = {"predictions": 0.5, "images": 0.25, "feedback": 0.25}
KEY_FIELDS = [("request_id", "S64"), ("index", "<u4")]
STATISTIC_FIELDS = [(name, "<f4") for name in STATISTICS]


class LoggedRequest(NamedTuple):
    """A predicted request: images uint8 (n, channels, height, width), probabilities float32 (n, classes).

    `indices`, int (n,), are the positions of the images in the request.
    """

    request_id: str
    time: float
    served_model: "ServedModel"
    images: np.ndarray
    probabilities: np.ndarray
    indices: np.ndarray


class Feedback(msgspec.Struct):
    """Label of one image, reported by a client; `pixels` and `shape` are None if the image was not sent."""

    request_id: str
    index: Annotated[int, msgspec.Meta(ge=0)]
    time: Annotated[float, msgspec.Meta(ge=0, lt=2**37)]  # until the year 6325, within pandas' range
    label: str
    shape: tuple[int, int, int] | None = None
    pixels: bytes | None = None


class PredictionLog:
    """Writer of one worker to the prediction log of its model.

    `on_dropped` is called with the number of predictions that could not be written.
    """

    def __init__(
        self, folder: Path, config: ServeConfig, worker_index: int, on_dropped: Callable[[int], None]
    ) -> None:
        self.folder, self.worker_index, self.image_sample_rate = (
            folder,
            worker_index,
            config.image_sample_rate,
        )
        self.rotating_files = {
            kind: RotatingFiles(folder, kind, int(fraction * config.log_max_mb * 1_000_000))
            for kind, fraction in QUOTAS.items()
        }
        self._on_dropped = on_dropped
        self._last_error = ""
        self._queue: list[LoggedRequest] = []
        self._queued_bytes = 0
        self._queue_lock, self._feedback_lock = threading.Lock(), threading.Lock()
        self._stop_event = threading.Event()
        self._writer_thread = threading.Thread(
            target=self._flush_until_closed, name="prediction-log", daemon=True
        )
        self._writer_thread.start()

    def log(
        self,
        request_id: str,
        served_model: "ServedModel",
        images: np.ndarray,
        probabilities: np.ndarray,
        indices: np.ndarray | None = None,
    ) -> None:
        """Queue the predictions of one request for writing; takes 1 µs and never blocks.

        `indices`, int (n,), are the positions of the images in the request, by default all from 0.
        """
        indices = np.arange(len(images)) if indices is None else indices
        request_bytes = images.nbytes + probabilities.nbytes
        with self._queue_lock:
            has_room = self._queued_bytes + request_bytes <= MAX_QUEUE_BYTES
            if has_room:
                self._queue.append(
                    LoggedRequest(request_id, time.time(), served_model, images, probabilities, indices)
                )
                self._queued_bytes += request_bytes
        if not has_room:
            self._on_dropped(len(images))

    def log_feedback(self, feedback: Feedback) -> None:
        """Write `feedback` before returning; raise `InfrastructureError` if it cannot be written."""
        try:
            with self._feedback_lock:
                self.rotating_files["feedback"].append(b"", msgspec.json.encode(feedback) + b"\n")
        except OSError as error:
            logger.error("feedback cannot be written: %s", error)
            raise InfrastructureError(f"feedback cannot be written: {error}", "feedback_not_saved") from None

    def should_log_images(self, request_id: str) -> bool:
        """Return whether the images of this request are logged; a hash of its id decides, the same in all
        workers.
        """
        if not self.image_sample_rate:
            return False
        hash_prefix = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
        return hash_prefix < self.image_sample_rate * 2**64

    def close(self) -> None:
        """Write the queue, but wait 2 s at most: a stopping server has no more time."""
        self._stop_event.set()
        self._writer_thread.join(2)
        if not self._writer_thread.is_alive():
            for files in self.rotating_files.values():
                files.close()

    def _flush_until_closed(self) -> None:
        is_last_flush = False
        while not is_last_flush:
            is_last_flush = self._stop_event.wait(FLUSH_INTERVAL_SECONDS)
            with self._queue_lock:
                queue, self._queue, self._queued_bytes = self._queue, [], 0
            for served_model, requests in groupby(queue, lambda request: request.served_model):
                self._write(served_model, list(requests))

    def _write(self, served_model: "ServedModel", requests: list[LoggedRequest]) -> None:
        """Write the requests; a failure is counted, logged once and never raised."""
        sampled_requests = [request for request in requests if self.should_log_images(request.request_id)]
        try:
            self._append_rows("predictions", served_model, build_prediction_rows(requests))
            if sampled_requests:
                self._append_rows("images", served_model, build_image_rows(sampled_requests))
        except Exception as error:
            self._on_dropped(sum(len(request.images) for request in requests))
            self._log_state_change(
                f"the prediction log cannot be written, requests are still served: {error}", error
            )
        else:
            self._log_state_change("")

    def _append_rows(self, kind: str, served_model: "ServedModel", rows: np.ndarray) -> None:
        files = self.rotating_files[kind]
        header = {
            "version": served_model.version,
            "worker": self.worker_index,
            "classes": served_model.classifier.card.classes,
            "columns": rows.dtype.descr,
        }
        header_line = json.dumps(header).encode() + b"\n"
        rows_per_write = max(files.max_file_bytes // rows.itemsize, 1)
        for start in range(0, len(rows), rows_per_write):
            files.append(header_line, rows[start : start + rows_per_write].tobytes())

    def _log_state_change(self, message: str, error: Exception | None = None) -> None:
        if message and not self._last_error:
            logger.error(message, exc_info=None if isinstance(error, OSError) else error)
        elif self._last_error and not message:
            logger.warning("the prediction log is written again")
        self._last_error = message


def build_prediction_rows(requests: list[LoggedRequest]) -> np.ndarray:
    """Build one row for each image: key, time, probabilities, and the statistics of the drift tests."""
    probabilities = np.concatenate([request.probabilities for request in requests])
    statistics = compute_statistics(np.concatenate([request.images for request in requests]))
    rows = _build_keyed_rows(
        requests, [("time", "<f8"), ("probabilities", "<f4", probabilities.shape[1:]), *STATISTIC_FIELDS]
    )
    rows["time"] = np.repeat(
        [request.time for request in requests], [len(request.images) for request in requests]
    )
    rows["probabilities"] = probabilities
    for column, name in enumerate(STATISTICS):
        rows[name] = statistics[:, column]
    return rows


def build_image_rows(requests: list[LoggedRequest]) -> np.ndarray:
    """Build one row for each image: key and pixels."""
    rows = _build_keyed_rows(requests, [("image", "|u1", requests[0].images.shape[1:])])
    rows["image"] = np.concatenate([request.images for request in requests])
    return rows


def _build_keyed_rows(requests: list[LoggedRequest], columns: list[Any]) -> np.ndarray:
    image_counts = [len(request.images) for request in requests]
    rows = np.empty(sum(image_counts), np.dtype([*KEY_FIELDS, *columns]))
    rows["request_id"] = np.repeat(
        np.array([request.request_id for request in requests], "S64"), image_counts
    )
    rows["index"] = np.concatenate([request.indices for request in requests])
    return rows
