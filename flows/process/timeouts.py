"""Calls with a time limit: each runs in a thread of its own, because it may never return."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def iterate_with_timeout(timeout_seconds: float, produce: Callable[[], Iterable[Item]]) -> Iterator[Item]:
    """Start `produce` in a thread and yield its items as they come.

    Raises the errors of `produce`, and `TimeoutError` once `timeout_seconds` have passed. A thread that
    hangs keeps running until this process ends.
    """
    results: SimpleQueue[tuple[Item] | BaseException | None] = SimpleQueue()

    def produce_all() -> None:
        try:
            for item in produce():
                results.put((item,))
            results.put(None)
        except BaseException as error:  # raised again in the thread that iterates
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
