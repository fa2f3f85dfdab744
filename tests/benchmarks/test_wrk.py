"""Tests of the load generator wrk: its results are reported correctly."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from benchmarks.wrk import run_wrk

pytestmark = pytest.mark.needs("wrk")


class StubHandler(BaseHTTPRequestHandler):
    """Handler that takes 10 ms per POST, rejects the body `bad`, and counts requests."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[tuple[str, bytes]]] = Counter()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen[self.headers["content-type"], body] += 1
        time.sleep(0.01)
        self.send_response(429 if body == b"bad" else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    StubHandler.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), StubHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_bodies_take_turns_and_refusals_are_counted(url: str) -> None:
    """Both bodies are sent equally often, with bytes of any value; half of the answers failed."""
    result = run_wrk(url, "text/plain", [b"\x00\xff\n", b"bad"], connections=2, seconds=1)

    good, bad = StubHandler.seen["text/plain", b"\x00\xff\n"], StubHandler.seen["text/plain", b"bad"]
    assert {("text/plain", b"\x00\xff\n"), ("text/plain", b"bad")} == set(StubHandler.seen)
    assert abs(good - bad) <= 2  # requests that were aborted at the end
    assert good + bad - 2 <= result.requests <= good + bad
    assert abs(result.requests / 2 - result.failed) <= 2


def test_times_are_milliseconds(url: str) -> None:
    """A server that takes 10 ms answers two connections at most 200 times per second."""
    result = run_wrk(url, "text/plain", [b"good"], connections=2, seconds=1)

    assert 10 <= result.p50 <= result.p99 < 1000
    assert 0 < result.rate <= 205
    assert 0.9 < result.seconds < 2


def test_pause_limits_the_rate_of_each_connection(url: str) -> None:
    """With 40 ms between an answer and the next request, a connection sends at most 20 per second."""
    assert 0 < run_wrk(url, "text/plain", [b"good"], connections=2, seconds=1, pause=40).rate <= 44


def test_unreachable_server_raises_the_error_of_wrk() -> None:
    """A failed connection is an error, not a result with zero requests."""
    with pytest.raises(RuntimeError, match="wrk: unable to connect"):
        run_wrk("http://127.0.0.1:9/", "text/plain", [b"good"], connections=1, seconds=1)
