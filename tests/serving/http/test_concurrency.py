"""The concurrency limit of a worker, and its threads."""

import asyncio
import time
from threading import Event

import pytest
from prometheus_client import CollectorRegistry, Gauge

from relearn.serving.http.concurrency import THREAD_COUNT, ConcurrencyLimiter
from relearn.serving.http.errors import HTTPError


@pytest.fixture
def limiter() -> ConcurrencyLimiter:
    """Create a limiter of three concurrent requests."""
    return ConcurrencyLimiter(3, Gauge("abandoned", "Threads.", registry=CollectorRegistry()))


def test_requests_over_the_limit_are_rejected_until_one_ends(limiter: ConcurrencyLimiter):
    """A request over the limit gets 429 at once, with `Retry-After: 1`."""
    with limiter, limiter:
        with limiter, pytest.raises(HTTPError) as error_info, limiter:
            pass
        with limiter:
            pass

    assert (429, {"retry-after": "1"}) == (error_info.value.http_status, error_info.value.headers)
    assert 0 == limiter.active_requests


def test_abandoned_thread_counts_until_it_ends(limiter: ConcurrencyLimiter):
    """A running thread counts against the limit; a call that has not started is cancelled."""
    may_finish = Event()
    started: list[int] = []

    async def compute() -> None:
        jobs = [
            asyncio.create_task(
                limiter.run_in_thread("", lambda index=index: started.append(index) or may_finish.wait(10))
            )
            for index in range(5)
        ]
        while len(started) < THREAD_COUNT:
            await asyncio.sleep(0.01)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert (THREAD_COUNT, THREAD_COUNT) == (
            limiter.orphaned_threads,
            limiter.orphaned_threads_gauge.collect()[0].samples[0].value,
        )
        with limiter, pytest.raises(HTTPError), limiter:
            pass
        may_finish.set()
        deadline = time.monotonic() + 5
        while limiter.orphaned_threads and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    asyncio.run(compute())
    assert (0, THREAD_COUNT) == (limiter.orphaned_threads, len(started))
    assert 7 == asyncio.run(limiter.run_in_thread("", lambda: 7))


def test_clients_take_turns(limiter: ConcurrencyLimiter):
    """However many calls one client has sent, another client's call waits for one of them at most."""
    may_finish = Event()
    started: list[str] = []

    def compute(client: str) -> None:
        started.append(client)
        may_finish.wait(10)

    async def send() -> None:
        jobs = [
            asyncio.create_task(limiter.run_in_thread(client, compute, client))
            for client in ["costly"] * 8 + ["abandoned"] + ["honest"] * 2 + ["other"]
        ]
        while len(started) < THREAD_COUNT:
            await asyncio.sleep(0.01)
        jobs[8].cancel()
        await asyncio.sleep(0)
        may_finish.set()
        await asyncio.gather(*jobs, return_exceptions=True)

    asyncio.run(send())
    assert ["costly", "costly"] == started[:2]
    # Two threads may start their calls in either order.
    assert started.index("honest") <= 4
    assert started.index("other") <= 5
    assert started.count("honest") == 2
    assert "honest" not in started[8:]
    assert (11, THREAD_COUNT, {}) == (len(started), limiter.free_threads, limiter.waiting)


def test_error_in_a_thread_reaches_the_caller(limiter: ConcurrencyLimiter):
    """An `HTTPError` raised in a thread is raised by `run_in_thread`."""
    with pytest.raises(HTTPError, match="no"):
        asyncio.run(limiter.run_in_thread("", raise_http_error))


def raise_http_error() -> None:
    raise HTTPError(415, "no", "no")
