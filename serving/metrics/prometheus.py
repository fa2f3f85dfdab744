"""Prometheus metrics of the API."""

import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.responses import Response

from relearn.serving.metrics.textfile_metrics import GAUGES_BY_FILE, TextfileMetrics

MetricT = TypeVar("MetricT", bound=MetricWrapperBase)

# Seconds: one image takes about 1 ms, a large batch some 100 ms, a slow client longer.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Probabilities: most predictions are above 0.99; below 0.5 the model is undecided between classes.
CONFIDENCE_BUCKETS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """Metrics of one worker.

    `render` adds up the metrics of all workers of the server, and includes the gauges that flows wrote into
    `prediction_log_folder`.
    """

    def __init__(self, prediction_log_folder: Path | None = None, worker_count: int = 1) -> None:
        self.prediction_log_folder = prediction_log_folder
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "relearn_requests", "Completed requests.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "relearn_request_seconds",
            "Seconds from the arrival of a request to its response.",
            ["route"],
            registry=self.registry,
            buckets=LATENCY_BUCKETS,
        )
        self.predictions = Counter(
            "relearn_predictions", "Predicted images.", ["version", "label"], registry=self.registry
        )
        self.no_answers = Counter(
            "relearn_no_answers",
            "Images without a predicted label, by reason.",
            ["version", "reason"],
            registry=self.registry,
        )
        self.confidence = Histogram(
            "relearn_confidence",
            "Highest class probability of each predicted image.",
            ["version"],
            registry=self.registry,
            buckets=CONFIDENCE_BUCKETS,
        )
        self.request_errors = Counter(
            "relearn_request_errors", "Rejected requests by error code.", ["code"], registry=self.registry
        )
        self.model_reloads = Counter(
            "relearn_model_reloads",
            "Switches of a worker from one version to another.",
            registry=self.registry,
        )
        self.orphaned_threads = Gauge(
            "relearn_orphaned_threads",
            "Threads that still compute for requests that timed out.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.configured_workers = Gauge(
            "relearn_workers",
            "Configured number of workers.",
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.configured_workers.set(worker_count)
        self.workers_serving = Gauge(
            "relearn_workers_serving",
            "Workers that serve a version.",
            ["version"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.workers_load_failed = Gauge(
            "relearn_workers_load_failed",
            "Workers that failed to load a released version and still serve the previous one.",
            ["version"],
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.dropped_predictions = Counter(
            "relearn_prediction_log_dropped",
            "Predictions served, but not completely recorded.",
            registry=self.registry,
        )
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], Any] = {}
        self.exported_versions: dict[Gauge, set[str | None]] = {
            self.workers_serving: set(),
            self.workers_load_failed: set(),
        }

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count one request and its duration; `route` is a route of the API, not a client's path."""
        self._bind(self.requests, route, str(status)).inc()
        self._bind(self.request_seconds, route).observe(seconds)

    def observe_predictions(self, version: str, labels: list[str], confidences: np.ndarray) -> None:
        """Count the images of one request by label, with their `confidences` float32 (n,) in 0–1."""
        for label in set(labels):
            self._bind(self.predictions, version, label).inc(labels.count(label))
        confidence = self._bind(self.confidence, version)
        for value in confidences.tolist():
            confidence.observe(value)

    def _bind(self, metric: MetricT, *labels: str) -> MetricT:
        """Return `metric.labels(*labels)`; each is looked up once, which takes longer than to count."""
        child: MetricT | None = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def set_version(self, version: str | None, failed_version: str | None) -> None:
        """Set the version that this worker serves, and the one that it failed to load; None for none."""
        for gauge, current_version in (
            (self.workers_serving, version),
            (self.workers_load_failed, failed_version),
        ):
            self.exported_versions[gauge] |= {current_version} - {None}
            for exported_version in self.exported_versions[gauge]:
                gauge.labels(exported_version).set(exported_version == current_version)

    def render(self) -> Response:
        """Return the metrics of all workers, and the gauges that worker and monitor wrote to files.

        The workers of a server share a folder of counts (prometheus_client's multiprocess mode).
        """
        registry = self.registry
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            for file in Path(folder).glob("gauge_live*.db"):
                pid = int(file.stem.rpartition("_")[2])
                if not psutil.pid_exists(pid):  # a killed worker serves no version
                    mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        textfile_metrics = (
            TextfileMetrics.from_file(file, self.prediction_log_folder).to_text() for file in GAUGES_BY_FILE
        )
        return Response(
            b"".join((generate_latest(registry), *textfile_metrics)), media_type=CONTENT_TYPE_LATEST
        )
