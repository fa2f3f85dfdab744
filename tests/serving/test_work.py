"""What a worker has in hand is bounded, and what is given up frees its place."""

import asyncio
import time
from threading import Event

import pytest
from prometheus_client import CollectorRegistry, Gauge

from relearn.serving.http.concurrency import THREAD_COUNT, ConcurrencyLimiter
from relearn.serving.http.requests import HTTPError


@pytest.fixture
def work() -> ConcurrencyLimiter:
    """Three requests at most."""
    return ConcurrencyLimiter(3, Gauge("abandoned", "Threads.", registry=CollectorRegistry()))


def test_what_is_over_the_limit_is_refused_until_there_is_room(work: ConcurrencyLimiter):
    """At once, with the second after which to try again."""
    with work.slot(), work.slot():
        with work.slot(), pytest.raises(HTTPError) as refused, work.slot():
            pass
        with work.slot():
            pass

    assert (429, {"retry-after": "1"}) == (refused.value.http_status, refused.value.headers)
    assert 0 == work.active_requests


def test_what_is_given_up_is_counted_until_it_has_ended(work: ConcurrencyLimiter):
    """A thread that computes counts against the limit; what had not begun never begins."""
    go = Event()
    begun: list[int] = []

    async def compute() -> None:
        jobs = [
            asyncio.create_task(work.run_in_thread(lambda n=n: begun.append(n) or go.wait(10)))
            for n in range(5)
        ]
        while len(begun) < THREAD_COUNT:
            await asyncio.sleep(0.01)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert (THREAD_COUNT, THREAD_COUNT) == (
            work.orphaned_threads,
            work.orphaned_threads_gauge.collect()[0].samples[0].value,
        )
        with work.slot(), pytest.raises(HTTPError), work.slot():
            pass
        go.set()
        deadline = time.monotonic() + 5
        while work.orphaned_threads and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    asyncio.run(compute())
    assert (0, THREAD_COUNT) == (work.orphaned_threads, len(begun))
    assert 7 == asyncio.run(work.run_in_thread(lambda: 7))


def test_what_fails_in_a_thread_fails_where_it_was_asked_for(work: ConcurrencyLimiter):
    """A refusal from a reader is the answer."""
    with pytest.raises(HTTPError, match="no"):
        asyncio.run(work.run_in_thread(refuse))


def refuse() -> None:
    raise HTTPError(415, "no", "no")
