"""uvicorn's HTTP protocol class with limits on slow clients, and no ambiguous HTTP.

llhttp, uvicorn's parser, rejects most of what proxies and servers read differently. `find_ambiguity` has the
rest: a request that a proxy understands as another one may carry a second request past it.
"""

import sys
from asyncio import TimerHandle, Transport
from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from relearn.serving.http import requests
from relearn.serving.http.errors import HTTPError, build_error_response

# Bytes of an incomplete request head. A head that arrives at once may exceed this by one read.
MAX_HEADER_BYTES = 65_536
# Seconds for a request head, from its first byte or from the start of the connection.
HEADER_TIMEOUT_SECONDS = 10.0
WRITE_TIMEOUT_SECONDS = 30.0  # seconds that a response waits for a client that does not read it
MAX_CONNECTIONS = 900  # per worker; most systems allow a process 1,024 open files

HTTP_VERSIONS = ("1.0", "1.1")


def find_ambiguity(http_version: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return how a request line or header could be understood in two ways, and what is accepted; or None.

    `target` is the request target, as in the request line; names in `headers` have lower case.
    """
    if http_version not in HTTP_VERSIONS:
        return f"version: got HTTP/{http_version}, accepted: {' or '.join(HTTP_VERSIONS)}"
    hosts = []
    for name, value in headers:
        if b"\t" in value:
            return "header: got a tab, accepted: spaces"
        if name == b"host":
            hosts.append(value.lower())
        elif name == b"transfer-encoding" and (http_version, value.lower()) != ("1.1", b"chunked"):
            return "Transfer-Encoding: got another one, accepted: chunked, in HTTP/1.1"
    names = {name for name, _ in headers}
    if b"upgrade" in names and not names.isdisjoint((b"content-length", b"transfer-encoding")):
        # llhttp would not read the body, and take it for the next request.
        return "Upgrade: got one with a body, accepted: none with a body"
    if len(hosts) > 1 or (not hosts and http_version == "1.1"):
        return f"Host: got {len(hosts)} headers, accepted: one"
    if b"#" in target:
        return "target: got a fragment, accepted: a path and a query"
    if not target.startswith(b"/") and target != b"*":
        scheme, _, rest = target.partition(b"://")
        if scheme.lower() not in (b"http", b"https") or [rest.partition(b"/")[0].lower()] != hosts:
            return "target: got a URL of another host, accepted: a path, or a URL of the Host"
    return None


class BoundedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 connection with limits on request line and headers. The routes limit the request body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None  # a websocket upgrade is handled as a plain GET
        self._is_reading_header = True
        self._header_bytes = 0
        self._header_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            message = f"server: got more connections than its limit, accepted: {MAX_CONNECTIONS} per worker"
            self._send_error(HTTPError(503, "too_many_connections", message, {"retry-after": "1"}))
        else:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._on_header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_header_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        if not self._is_reading_header or self.transport.is_closing():
            return
        if self._header_bytes > MAX_HEADER_BYTES:
            self._send_error(
                HTTPError(431, "head_too_large", f"headers and URL: accepted: up to {MAX_HEADER_BYTES} bytes")
            )
        elif self._header_bytes and self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._on_header_timeout)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_reading_header:
            # uvicorn would add it to the headers, whose checks are over.
            raise ValueError("body: got a trailer, accepted: none")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if ambiguity := find_ambiguity(self.parser.get_http_version(), self.url, self.headers):
            raise ValueError(ambiguity)
        self._cancel_header_timer()
        self._is_reading_header, self._header_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_reading_header, self._header_bytes = True, 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        # uvicorn calls it while it handles the parser's error, whose context is what a callback has raised.
        error = sys.exception()
        reason = error.__context__ if error else None
        message = str(reason) if isinstance(reason, ValueError) else "got invalid HTTP, accepted: HTTP/1.1"
        self._send_error(HTTPError(400, "invalid_http", f"request: {message}"))

    def _cancel_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self.cycle and not self.cycle.response_complete:
            self._header_timer = self.loop.call_later(
                HEADER_TIMEOUT_SECONDS, self._on_header_timeout
            )  # the client waits for our response
        elif self._header_bytes:
            self._send_error(
                HTTPError(
                    408,
                    "timeout",
                    f"request: got an incomplete head after {HEADER_TIMEOUT_SECONDS:g} seconds",
                )
            )
        else:
            self.transport.close()

    def _send_error(self, error: HTTPError) -> None:
        """Send an error response outside the routes, and close the connection."""
        request_id = requests.create_request_id()
        response = build_error_response(error, request_id)
        headers = [*response.raw_headers, *requests.build_headers(request_id), (b"connection", b"close")]
        header_lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[error.http_status] + header_lines + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Override uvicorn's warning about a request to change the protocol: log nothing."""
