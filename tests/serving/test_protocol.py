"""What a client may do before its request is whole: bounded in bytes and time, refused in our one form."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from relearn.serving.deployment.server import Server
from relearn.serving.http.protocol import HEADER_TIMEOUT, MAX_HEADER_BYTES

START = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def received(wire: socket.socket, within: float) -> bytes:
    """All that comes until the server hangs up, which has to be `within` so many seconds."""
    wire.settimeout(within)
    content = b""
    while piece := wire.recv(65_536):
        content += piece
    return content


def refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert (f"HTTP/1.1 {status} ", code) == (head[:13].decode(), error["code"])
    assert f"x-request-id: {error['request_id']}".encode() in head
    assert b"x-content-type-options: nosniff" in head


def endless(kind: str) -> Iterator[bytes]:
    """A head without end, in pieces: as many headers, as one value, as a URL."""
    yield {"headers": START, "value": START + b"X-A: ", "url": b"GET /"}[kind]
    while True:
        yield b"X-A: b\r\n" * 1_000 if kind == "headers" else b"a" * 8_000


@pytest.mark.parametrize("kind", ["headers", "value", "url"])
def test_a_head_without_end_is_cut(server: Server, kind: str):
    """Soon after the limit, long before it costs memory, whether or not there is a key to it."""
    worker = psutil.Process(server.worker_processes[-1].pid)
    before, sent = worker.memory_info().rss, 0
    with socket.create_connection(server.address, timeout=10) as wire, suppress(ConnectionError):
        for piece in endless(kind):
            wire.sendall(piece)
            sent += len(piece)
            assert sent < 20_000_000
            if sent > 4 * MAX_HEADER_BYTES:
                time.sleep(0.01)
    assert worker.memory_info().rss - before < 20_000_000


def test_a_large_head_is_told_what_is_accepted(server: Server):
    """Who sends a little too much and waits is told."""
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(START)
        for _ in range(9):
            wire.sendall(b"X-A: " + b"a" * 8_000 + b"\r\n")
            time.sleep(0.02)
        refused(received(wire, 5), 431, "head_too_large")


def test_nobody_is_waited_for_for_ever(server: Server):
    """Who says nothing is hung up on; who trickles a head is told; who has sent one is not disturbed."""
    with (
        socket.create_connection(server.address, timeout=10) as silent,
        socket.create_connection(server.address, timeout=10) as trickling,
    ):
        begun = time.monotonic()
        trickling.sendall(START)
        for _ in range(4):
            time.sleep(HEADER_TIMEOUT / 5)
            trickling.sendall(b"X")
        refused(received(trickling, HEADER_TIMEOUT), 408, "timeout")
        assert b"" == received(silent, HEADER_TIMEOUT)
        assert HEADER_TIMEOUT - 0.5 < time.monotonic() - begun < HEADER_TIMEOUT + 3


def test_a_websocket_is_a_request_like_another(server: Server):
    """None is opened; BentoML's own application never sees it."""
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(server.address, timeout=10) as wire:
        wire.sendall(START.replace(b"POST", b"GET") + upgrade + b"Sec-WebSocket-Key: eA==\r\n\r\n")
        refused(received(wire, 5), 405, "method_not_allowed")
