"""Promises of the load that is measured with: what wrk did is what we tell of it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from benchmarks.wrk import ask

pytestmark = pytest.mark.needs("wrk")


class Answering(BaseHTTPRequestHandler):
    """Takes 10 ms for a POST, refuses every body `bad`, and counts what it was sent."""

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
    Answering.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_bodies_take_turns_and_refusals_are_counted(url: str) -> None:
    """Each body is sent as often as the others, bytes of any value included; half of the answers failed."""
    asked = ask(url, "text/plain", [b"\x00\xff\n", b"bad"], connections=2, seconds=1)

    good, bad = Answering.seen["text/plain", b"\x00\xff\n"], Answering.seen["text/plain", b"bad"]
    assert {("text/plain", b"\x00\xff\n"), ("text/plain", b"bad")} == set(Answering.seen)
    assert abs(good - bad) <= 2  # connections that were cut off at the end
    assert good + bad - 2 <= asked.requests <= good + bad
    assert abs(asked.requests / 2 - asked.failed) <= 2


def test_times_are_milliseconds(url: str) -> None:
    """A server that takes 10 ms is seen to; two connections ask 200 times a second at most."""
    asked = ask(url, "text/plain", [b"good"], connections=2, seconds=1)

    assert 10 <= asked.p50 <= asked.p99 < 1000
    assert 0 < asked.rate <= 205
    assert 0.9 < asked.seconds < 2


def test_a_pause_lets_each_connection_wait(url: str) -> None:
    """With 40 ms between an answer and the next request, a connection asks 20 times a second at most."""
    assert 0 < ask(url, "text/plain", [b"good"], connections=2, seconds=1, pause=40).rate <= 44


def test_who_cannot_be_reached_is_told_in_the_words_of_wrk() -> None:
    """It is no measurement of zero requests."""
    with pytest.raises(RuntimeError, match="wrk: unable to connect"):
        ask("http://127.0.0.1:9/", "text/plain", [b"good"], connections=1, seconds=1)
