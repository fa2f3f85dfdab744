"""What a worker has in hand: requests being answered, and threads that compute for them."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from prometheus_client import Gauge

from relearn.serving.guard import Refusal

P = ParamSpec("P")
T = TypeVar("T")

# Arithmetic takes one core each, and more cores are had by more workers. Their number also bounds a worker's
# memory: two pictures at the limit of pixels take 170 MB while they are unfolded.
THREADS = 2


class Work:
    """Requests of one worker, never more than `limit` at a time; `abandoned` shows threads that are lost."""

    def __init__(self, limit: int, abandoned: Gauge) -> None:
        self.limit = limit
        self.requests = 0
        self.lost = 0
        self.abandoned = abandoned
        self.pool = ThreadPoolExecutor(THREADS, "predict")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Have one more request in hand for the length of a `with` block, or raise `Refusal` 429 at once."""
        if self.requests + self.lost >= self.limit:
            message = f"server: got more requests at once than its limit, accepted: {self.limit} a worker"
            raise Refusal(429, "too_many_requests", message, {"retry-after": "1"})
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def apart(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call `function` in a thread.

        A thread that computes cannot be ended: where the request is given up meanwhile, what it has in
        hand counts against the limit until it has come to its end. What has not begun is never begun.
        """
        job = self.pool.submit(function, *arguments, **named)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if job.running():
                self._abandon(job)
            raise

    def _abandon(self, job: Future[T]) -> None:
        self._lose(1)
        loop = asyncio.get_running_loop()
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._lose, -1))

    def _lose(self, threads: int) -> None:
        self.lost += threads
        self.abandoned.set(self.lost)
