"""Metrics on their way to MLflow: a store that is slow or away never holds up the training."""

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from flows.kept import Note
from flows.store import reached
from flows.tracking import Run
from model.errors import MachineError

# Seconds that the end of a training waits for what MLflow has not taken yet; an end by a signal or an error
# does not: what is missing then arrives when the training goes on.
PATIENCE = 60.0


class Delivery:
    """Hands notes to the store in their order, beside the training, and tries again where that fails.

    A note arrives once however often it is tried. When the block ends well, the rest is waited for;
    `MachineError` when it still cannot be delivered.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(1, "delivery")
        self._notes: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def add(self, note: Note) -> None:
        """Take a note over; returns at once."""
        self._notes.append(self._pool.submit(self._send, note))

    def _send(self, note: Note) -> None:
        for attempt in Retrying(
            wait=wait_exponential(multiplier=0.5, max=10),
            retry=retry_if_exception_type(MachineError),
            stop=stop_when_event_set(self._enough),
            sleep=sleep_using_event(self._enough),
            reraise=True,
        ):
            with attempt, reached(self._run.client.tracking_uri):
                self._run.metrics(note["values"], note["step"], note["milliseconds"])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            wait(self._notes, PATIENCE)
        self._enough.set()
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is None:
            self._check()

    def _check(self) -> None:
        try:
            for note in self._notes:
                note.result()
        except CancelledError:
            raise MachineError(f"MLflow has not taken all metrics within {PATIENCE:g} seconds") from None
