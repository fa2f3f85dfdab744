"""What a worker has in hand: requests being answered, and threads that compute for them."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from prometheus_client import Gauge

from relearn.serving.http.requests import HTTPError

P = ParamSpec("P")
T = TypeVar("T")

# Arithmetic takes one core each, and more cores are had by more workers. Their number also bounds a worker's
# memory: two pictures at the limit of pixels take 170 MB while they are unfolded.
THREAD_COUNT = 2


class ConcurrencyLimiter:
    """Requests of one worker, never more than `limit` at a time; `abandoned` shows threads that are lost."""

    def __init__(self, max_requests: int, orphaned_threads_gauge: Gauge) -> None:
        self.max_requests = max_requests
        self.active_requests = 0
        self.orphaned_threads = 0
        self.orphaned_threads_gauge = orphaned_threads_gauge
        self.thread_pool = ThreadPoolExecutor(THREAD_COUNT, "predict")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Have one more request in hand for the length of a `with` block, or raise `Refusal` 429 at once."""
        if self.active_requests + self.orphaned_threads >= self.max_requests:
            message = (
                f"server: got more requests at once than its limit, accepted: {self.max_requests} a worker"
            )
            raise HTTPError(429, "too_many_requests", message, {"retry-after": "1"})
        self.active_requests += 1
        try:
            yield
        finally:
            self.active_requests -= 1

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in a thread.

        A thread that computes cannot be ended: where the request is given up meanwhile, what it has in
        hand counts against the limit until it has come to its end. What has not begun is never begun.
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
