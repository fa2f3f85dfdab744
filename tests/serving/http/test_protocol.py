"""Limits on request heads, ambiguous HTTP, and the error response."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


CHUNKED = b"Transfer-Encoding: chunked"
CONTROLS = [bytes([code]) for code in (*range(10), 11, 12, *range(14, 32), 127)]
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


def build_request(*headers: bytes, line: bytes = b"POST /predict HTTP/1.1", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", body])


def in_any_case(text: bytes) -> st.SearchStrategy[bytes]:
    upper = st.lists(st.booleans(), min_size=len(text), max_size=len(text))
    return upper.map(
        lambda flags: bytes(
            ord(chr(byte).swapcase()) if flag else byte for byte, flag in zip(text, flags, strict=True)
        )
    )


def replace_line_end(request: bytes, number: int, end: bytes) -> bytes:
    lines = request.split(b"\r\n")
    number %= len(lines) - 1
    return b"\r\n".join([*lines[:number], lines[number] + end + lines[number + 1], *lines[number + 2 :]])


AMBIGUOUS_REQUESTS = st.one_of(
    st.sampled_from([b"evil.example", b"localhost:1", b"localhost@evil.example", b"localhost.", b""]).map(
        lambda host: build_request(line=b"GET http://" + host + b"/livez HTTP/1.1")
    ),
    st.sampled_from([b"GET ftp://localhost/livez", b"CONNECT localhost:80", b"GET /livez#?x"]).map(
        lambda start: build_request(line=start + b" HTTP/1.1")
    ),
    st.sampled_from([b"0.9", b"1.2", b"2.0", b"3.0", b"1", b"11.1"]).map(
        lambda version: build_request(line=b"GET /livez HTTP/" + version)
    ),
    st.sampled_from([b"Host: localhost", b"Host: evil.example", b"host:"]).map(build_request),
    # Two lengths of the body, or one that can be read in two ways.
    st.permutations([b"Content-Length: 5", CHUNKED]).map(
        lambda headers: build_request(*headers, body=b"0\r\n\r\n")
    ),
    st.tuples(st.integers(0, 99), st.integers(0, 99)).map(
        lambda lengths: build_request(*(b"Content-Length: %d" % length for length in lengths))
    ),
    st.sampled_from([b"+0", b"-0", b"0x0", b"0 0", b"0, 0", b"1e0", b"9" * 25]).map(
        lambda length: build_request(b"Content-Length: " + length)
    ),
    st.sampled_from(
        [b"gzip, chunked", b"chunked, chunked", b"identity", b"gzip", b"xchunked", b"chunked;q=1"]
    )
    .flatmap(in_any_case)
    .map(lambda coding: build_request(b"Transfer-Encoding: " + coding, body=b"0\r\n\r\n")),
    st.just(build_request(CHUNKED, line=b"POST /predict HTTP/1.0", body=b"0\r\n\r\n")),
    st.sampled_from([b"0x0\r\n", b"+0\r\n", b"0 \r\n", b"0\n", b"2\r\n{}0\r\n", b"0\r\nHost: evil\r\n"]).map(
        lambda body: build_request(CHUNKED, body=body + b"\r\n")
    ),
    # A body that the parser would take for the next request.
    st.tuples(
        st.sampled_from([b"h2c", b"websocket", b"TLS/1.2"]), st.sampled_from([b"Content-Length: 42", CHUNKED])
    ).map(lambda parts: build_request(b"Connection: Upgrade", b"Upgrade: " + parts[0], parts[1])),
    # Header lines and line ends.
    st.sampled_from(CONTROLS).map(lambda control: build_request(b"X-A: a" + control + b"b")),
    st.sampled_from([*CONTROLS, b" "]).map(lambda sign: build_request(b"Content-Length" + sign + b": 0")),
    st.sampled_from([b" b", b"\tb", b" Content-Length: 5"]).map(
        lambda folded: build_request(b"X-A: a", folded)
    ),
    st.tuples(st.integers(0, 9), st.sampled_from([b"\n", b"\r", b"\n\r"])).map(
        lambda change: replace_line_end(build_request(b"X-A: a"), *change)
    ),
)


@settings(max_examples=300, deadline=None)
@given(AMBIGUOUS_REQUESTS)
def test_ambiguous_request_is_rejected_alike(server: Server, request: bytes):
    """A request that a proxy could read in another way gets 400; what follows it is not answered."""
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(request + SMUGGLED)
        response = receive_until_close(connection, 5)

    assert_error(response, 400, "invalid_http")
    assert 1 == response.count(b"HTTP/1.1 ")


@pytest.mark.parametrize(
    "request_head",
    [
        build_request(line=b"GET http://localhost/livez HTTP/1.1"),
        build_request(line=b"GET /livez HTTP/1.0"),
        build_request(b"Content-Length: 2", line=b"GET /livez HTTP/1.1", body=b"{}"),
        build_request(CHUNKED.upper(), line=b"GET /livez HTTP/1.1", body=b"0\r\n\r\n"),
    ],
)
def test_unusual_but_clear_request_is_answered(server: Server, request_head: bytes):
    """The URL of the server itself as target, HTTP/1.0, and a body that no route reads are accepted."""
    with socket.create_connection(server.address, timeout=10) as connection:
        connection.sendall(request_head)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
