"""Background queue of metrics for MLflow; a slow or unreachable server does not block the training."""

import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from relearn.flows.tracking.runs import Run
from relearn.flows.tracking.store import mlflow_errors
from relearn.flows.training.resume import EpochLog
from relearn.model.errors import InfrastructureError

# Seconds that a finished training waits for metrics that MLflow has not stored yet. An interrupted training
# does not wait: the missing metrics are sent when it is resumed.
FLUSH_TIMEOUT_SECONDS = 60.0


class AsyncMetricLogger:
    """Context manager that sends epoch logs to MLflow in order, in a thread, with retries.

    Retries store an epoch log once. A `with` block that ends without an error waits for the queue; it
    raises `InfrastructureError` after `FLUSH_TIMEOUT_SECONDS`.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stop_retrying = threading.Event()
        self._queue: SimpleQueue[EpochLog | None] = SimpleQueue()
        self._error: Exception | None = None
        # A daemon: Python waits for other threads at exit, and this one may wait for an unreachable server.
        self._thread = threading.Thread(target=self._send_all, name="metric-queue", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def enqueue(self, epoch_log: EpochLog) -> None:
        """Add `epoch_log` to the queue, without waiting."""
        self._queue.put(epoch_log)

    def _send_all(self) -> None:
        try:
            for epoch_log in iter(self._queue.get, None):
                self._send_with_retries(epoch_log)
        except Exception as error:  # raised again at the end of the `with` block
            self._error = error

    def _send_with_retries(self, epoch_log: EpochLog) -> None:
        for attempt in Retrying(
            wait=wait_exponential(multiplier=0.5, max=10),
            retry=retry_if_exception_type(InfrastructureError),
            stop=stop_when_event_set(self._stop_retrying),
            sleep=sleep_using_event(self._stop_retrying),
            reraise=True,
        ):
            with attempt, mlflow_errors(self._run.client.tracking_uri):
                self._run.log_metrics(epoch_log["values"], epoch_log["step"], epoch_log["milliseconds"])

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        if error_type is None:
            self._thread.join(FLUSH_TIMEOUT_SECONDS)
        self._stop_retrying.set()
        if error_type is None:
            self._raise_if_unsent()

    def _raise_if_unsent(self) -> None:
        self._thread.join(1)
        if self._error:
            raise self._error
        if self._thread.is_alive():
            raise InfrastructureError(
                f"MLflow has not stored all metrics within {FLUSH_TIMEOUT_SECONDS:g} seconds"
            )
