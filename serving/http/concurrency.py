"""Limits of a worker: concurrent requests and prediction threads."""

import asyncio
from collections import deque
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

    Clients take turns: each waits for at most one call of every other client, however many those have sent.

    A thread whose request was abandoned counts against the limit until it ends; `orphaned_threads_gauge`
    shows the number of such threads.
    """

    def __init__(self, max_requests: int, orphaned_threads_gauge: Gauge) -> None:
        self.max_requests = max_requests
        self.active_requests = 0
        self.orphaned_threads = 0
        self.orphaned_threads_gauge = orphaned_threads_gauge
        self.thread_pool = ThreadPoolExecutor(THREAD_COUNT, "predict")
        self.free_threads = THREAD_COUNT
        self.waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client; the next one is first

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

    async def run_in_thread(
        self, client: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `function` in the thread pool when it is the turn of `client`, and return its result.

        If the request is abandoned, a call that has not started is cancelled; a running one cannot be
        stopped, and its thread counts against the limit until it ends.
        """
        await self._wait_for_thread(client)
        future = self.thread_pool.submit(function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free_thread))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.running():
                self._track_orphaned_thread(future)
            raise

    async def _wait_for_thread(self, client: str) -> None:
        if self.free_threads:
            self.free_threads -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came, but the request is abandoned
                self._free_thread()
            raise

    def _free_thread(self) -> None:
        """Give the thread to the next waiting call; its client's other calls follow those of all clients."""
        while self.waiting:
            client = next(iter(self.waiting))
            turns = self.waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self.waiting[client] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self.free_threads += 1

    def _track_orphaned_thread(self, future: Future[T]) -> None:
        self._add_orphaned_threads(1)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._add_orphaned_threads, -1))

    def _add_orphaned_threads(self, count: int) -> None:
        self.orphaned_threads += count
        self.orphaned_threads_gauge.set(self.orphaned_threads)
