"""Metrics on their way to MLflow: a store that is slow or away never holds up the training."""

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

# Seconds that the end of a training waits for what MLflow has not taken yet; an end by a signal or an error
# does not: what is missing then arrives when the training goes on.
FLUSH_TIMEOUT_SECONDS = 60.0


class AsyncMetricLogger:
    """Hands notes to the store in their order, beside the training, and tries again where that fails.

    A note arrives once however often it is tried. When the block ends well, the rest is waited for;
    `MachineError` when it still cannot be delivered.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stop_retrying = threading.Event()
        self._queue: SimpleQueue[EpochLog | None] = SimpleQueue()
        self._error: Exception | None = None
        # A daemon: Python would wait for any other thread at its end, and this one may wait for a store.
        self._thread = threading.Thread(target=self._send_all, name="delivery", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def enqueue(self, epoch_log: EpochLog) -> None:
        """Take a note over; returns at once."""
        self._queue.put(epoch_log)

    def _send_all(self) -> None:
        try:
            for epoch_log in iter(self._queue.get, None):
                self._send_with_retries(epoch_log)
        except Exception as error:  # raised again where the block ends
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
                f"MLflow has not taken all metrics within {FLUSH_TIMEOUT_SECONDS:g} seconds"
            )
