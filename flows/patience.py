"""What may hang is asked in a thread of its own, and waited for so long and no longer."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

Told = TypeVar("Told")


def within(seconds: float, ask: Callable[[], Iterable[Told]]) -> Iterator[Told]:
    """Begin to ask; gives what `ask` tells, each as it comes.

    Raises what it raises, `TimeoutError` once so long has passed. A thread that hangs is left behind, and
    ends with this process.
    """
    answers: SimpleQueue[tuple[Told] | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            for told in ask():
                answers.put((told,))
            answers.put(None)
        except BaseException as error:  # raised again by whoever waits
            answers.put(error)

    threading.Thread(target=work, daemon=True).start()
    return _given(answers, time.monotonic() + seconds, seconds)


def _given(
    answers: "SimpleQueue[tuple[Told] | BaseException | None]", deadline: float, seconds: float
) -> Iterator[Told]:
    while True:
        try:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise TimeoutError(f"no answer within {seconds:g} seconds") from None
        if answer is None:
            return
        if isinstance(answer, BaseException):
            raise answer
        yield answer[0]
