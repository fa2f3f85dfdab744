"""Limits on request heads: bytes, time, and the error response."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from relearn.serving.deployment.server import Server
from relearn.serving.http.protocol import HEADER_TIMEOUT_SECONDS, MAX_HEADER_BYTES

REQUEST_START = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def receive_until_close(connection: socket.socket, timeout_seconds: float) -> bytes:
    """Receive until the server closes the connection, at most `timeout_seconds` seconds after each chunk."""
    connection.settimeout(timeout_seconds)
    content = b""
    while chunk := connection.recv(65_536):
        content += chunk
    return content


def assert_error(response: bytes, status: int, code: str) -> None:
    head, _, body = response.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert (f"HTTP/1.1 {status} ", code) == (head[:13].decode(), error["code"])
    assert f"x-request-id: {error['request_id']}".encode() in head
    assert b"x-content-type-options: nosniff" in head


def endless_head(kind: str) -> Iterator[bytes]:
    """Yield chunks of an endless request head: many headers, one long value, or a long URL."""
    yield {"headers": REQUEST_START, "value": REQUEST_START + b"X-A: ", "url": b"GET /"}[kind]
    while True:
        yield b"X-A: b\r\n" * 1_000 if kind == "headers" else b"a" * 8_000


@pytest.mark.parametrize("kind", ["headers", "value", "url"])
def test_endless_head_is_cut_off(server: Server, kind: str):
    """The connection closes soon after the limit, before the head takes memory."""
    worker = psutil.Process(server.worker_processes[-1].pid)
    memory_before, sent = worker.memory_info().rss, 0
    with socket.create_connection(server.address, timeout=10) as connection, suppress(ConnectionError):
        for chunk in endless_head(kind):
            connection.sendall(chunk)
            sent += len(chunk)
            assert sent < 20_000_000
            if sent > 4 * MAX_HEADER_BYTES:
                time.sleep(0.01)
    assert worker.memory_info().rss - memory_before < 20_000_000


def test_too_large_head_gets_431(server: Server):
    """A client that sends slightly too much and waits gets an error response."""
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(REQUEST_START)
        for _ in range(9):
            connection.sendall(b"X-A: " + b"a" * 8_000 + b"\r\n")
            time.sleep(0.02)
        assert_error(receive_until_close(connection, 5), 431, "head_too_large")


def test_slow_heads_time_out(server: Server):
    """A silent connection is closed, and a slow head gets 408, after the timeout."""
    with (
        socket.create_connection(server.address, timeout=10) as silent,
        socket.create_connection(server.address, timeout=10) as trickling,
    ):
        start = time.monotonic()
        trickling.sendall(REQUEST_START)
        for _ in range(4):
            time.sleep(HEADER_TIMEOUT_SECONDS / 5)
            trickling.sendall(b"X")
        assert_error(receive_until_close(trickling, HEADER_TIMEOUT_SECONDS), 408, "timeout")
        assert b"" == receive_until_close(silent, HEADER_TIMEOUT_SECONDS)
        assert HEADER_TIMEOUT_SECONDS - 0.5 < time.monotonic() - start < HEADER_TIMEOUT_SECONDS + 3


def test_websocket_upgrade_is_a_plain_request(server: Server):
    """No websocket is opened; BentoML's own application does not see the request."""
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(
            REQUEST_START.replace(b"POST", b"GET") + upgrade + b"Sec-WebSocket-Key: eA==\r\n\r\n"
        )
        assert_error(receive_until_close(connection, 5), 405, "method_not_allowed")
