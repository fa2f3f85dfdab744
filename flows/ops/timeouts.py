"""What may hang is asked in a thread of its own, and waited for so long and no longer."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def iterate_with_timeout(timeout_seconds: float, produce: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """Begin to ask; gives what `ask` tells, each as it comes.

    Raises what it raises, `TimeoutError` once so long has passed. A thread that hangs is left behind, and
    ends with this process.
    """
    results: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()

    def produce_all() -> None:
        try:
            for item in produce():
                results.put((item,))
            results.put(None)
        except BaseException as error:  # raised again by whoever waits
            results.put(error)

    threading.Thread(target=produce_all, daemon=True).start()
    return _iterate_results(results, time.monotonic() + timeout_seconds, timeout_seconds)


def _iterate_results(
    results: "SimpleQueue[tuple[Item] | BaseException | None]", deadline: float, timeout_seconds: float
) -> Iterator[Item]:
    while True:
        try:
            result = results.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise TimeoutError(f"no answer within {timeout_seconds:g} seconds") from None
        if result is None:
            return
        if isinstance(result, BaseException):
            raise result
        yield result[0]
