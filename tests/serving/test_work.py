"""What a worker has in hand is bounded, and what is given up frees its place."""

import asyncio
import time
from threading import Event

import pytest
from prometheus_client import CollectorRegistry, Gauge

from relearn.serving.guard import Refusal
from relearn.serving.work import THREADS, Work


@pytest.fixture
def work() -> Work:
    """Three requests at most."""
    return Work(3, Gauge("abandoned", "Threads.", registry=CollectorRegistry()))


def test_what_is_over_the_limit_is_refused_until_there_is_room(work: Work):
    """At once, with the second after which to try again."""
    with work.admitted(), work.admitted():
        with work.admitted(), pytest.raises(Refusal) as refused, work.admitted():
            pass
        with work.admitted():
            pass

    assert (429, {"retry-after": "1"}) == (refused.value.status, refused.value.headers)
    assert 0 == work.requests


def test_what_is_given_up_is_counted_until_it_has_ended(work: Work):
    """A thread that computes counts against the limit; what had not begun never begins."""
    go = Event()
    begun: list[int] = []

    async def compute() -> None:
        jobs = [asyncio.create_task(work.apart(lambda n=n: begun.append(n) or go.wait(10))) for n in range(5)]
        while len(begun) < THREADS:
            await asyncio.sleep(0.01)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert (THREADS, THREADS) == (work.lost, work.abandoned.collect()[0].samples[0].value)
        with work.admitted(), pytest.raises(Refusal), work.admitted():
            pass
        go.set()
        deadline = time.monotonic() + 5
        while work.lost and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    asyncio.run(compute())
    assert (0, THREADS) == (work.lost, len(begun))
    assert 7 == asyncio.run(work.apart(lambda: 7))


def test_what_fails_in_a_thread_fails_where_it_was_asked_for(work: Work):
    """A refusal from a reader is the answer."""
    with pytest.raises(Refusal, match="no"):
        asyncio.run(work.apart(refuse))


def refuse() -> None:
    raise Refusal(415, "no", "no")
