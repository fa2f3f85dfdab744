"""Metrics on their way to MLflow: a store that is slow or away never holds up the training."""

import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_exponential
from tenacity.nap import sleep_using_event

from relearn.flows.kept import Note
from relearn.flows.store import reached
from relearn.flows.tracking import Run
from relearn.model.errors import MachineError

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
        self._notes: SimpleQueue[Note | None] = SimpleQueue()
        self._error: Exception | None = None
        # A daemon: Python would wait for any other thread at its end, and this one may wait for a store.
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def add(self, note: Note) -> None:
        """Take a note over; returns at once."""
        self._notes.put(note)

    def _work(self) -> None:
        try:
            for note in iter(self._notes.get, None):
                self._send(note)
        except Exception as error:  # raised again where the block ends
            self._error = error

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
        self._notes.put(None)
        if kind is None:
            self._thread.join(PATIENCE)
        self._enough.set()
        if kind is None:
            self._check()

    def _check(self) -> None:
        self._thread.join(1)
        if self._error:
            raise self._error
        if self._thread.is_alive():
            raise MachineError(f"MLflow has not taken all metrics within {PATIENCE:g} seconds")
