"""Limits of a worker: concurrent requests and prediction threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from prometheus_client import Gauge

from relearn.serving.http.errors import HTTPError

P = ParamSpec("P")
T = TypeVar("T")

# Each computation takes one core; more cores are used by more workers. The number also bounds a worker's
# memory: decoding two images at the pixel limit takes 170 MB.
THREAD_COUNT = 2


class ConcurrencyLimiter:
    """Admits up to `max_requests` concurrent requests in one worker and runs predictions in a thread pool.

    A thread whose request was abandoned counts against the limit until it ends; `orphaned_threads_gauge`
    shows the number of such threads.
    """

    def __init__(self, max_requests: int, orphaned_threads_gauge: Gauge) -> None:
        self.max_requests = max_requests
        self.active_requests = 0
        self.orphaned_threads = 0
        self.orphaned_threads_gauge = orphaned_threads_gauge
        self.thread_pool = ThreadPoolExecutor(THREAD_COUNT, "predict")

    def __enter__(self) -> None:
        """Occupy one of `max_requests` slots until `__exit__`; raise `HTTPError` 429 if none is free."""
        if self.active_requests + self.orphaned_threads >= self.max_requests:
            message = (
                f"server: got more concurrent requests than its limit, accepted: {self.max_requests} per"
                " worker"
            )
            raise HTTPError(429, "too_many_requests", message, {"retry-after": "1"})
        self.active_requests += 1

    def __exit__(self, *exc_info: object) -> None:
        """Free the slot."""
        self.active_requests -= 1

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in the thread pool and return its result.

        If the request is abandoned, a call that has not started is cancelled; a running one cannot be
        stopped, and its thread counts against the limit until it ends.
        """
        future = self.thread_pool.submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.running():
                self._track_orphaned_thread(future)
            raise

    def _track_orphaned_thread(self, future: Future[T]) -> None:
        self._add_orphaned_threads(1)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._add_orphaned_threads, -1))

    def _add_orphaned_threads(self, count: int) -> None:
        self.orphaned_threads += count
        self.orphaned_threads_gauge.set(self.orphaned_threads)
