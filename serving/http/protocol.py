"""HTTP on the wire: uvicorn's protocol, with bounds on what a client may do before its request is whole."""

import uuid
from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from relearn.serving.http import requests
from relearn.serving.http.requests import HTTPError

# Bytes of a head that is not whole; one that comes at once may be larger by what is read in one piece.
MAX_HEADER_BYTES = 65_536
HEADER_TIMEOUT = 10.0  # seconds for a head, from its first byte or from the beginning of the connection
WRITE_TIMEOUT = 30.0  # seconds that an answer may wait for a client that does not read it
MAX_CONNECTIONS = 900  # of a worker; most systems give a process 1,024 files


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. What comes after the head is bounded by the routes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None  # whoever wants a websocket is answered as by any other GET
        self._is_reading_header = True
        self._header_bytes = 0
        self._header_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            message = f"server: got more connections than its limit, accepted: {MAX_CONNECTIONS} a worker"
            self._send_error(HTTPError(503, "too_many_connections", message, {"retry-after": "1"}))
        else:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT, self._on_header_timeout)

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
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT, self._on_header_timeout)

    def on_headers_complete(self) -> None:
        self._cancel_header_timer()
        self._is_reading_header, self._header_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_reading_header, self._header_bytes = True, 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._send_error(HTTPError(400, "invalid_http", "request: got no valid HTTP, accepted: HTTP/1.1"))

    def _cancel_header_timer(self) -> None:
        if self._header_timer:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self.cycle and not self.cycle.response_complete:
            self._header_timer = self.loop.call_later(
                HEADER_TIMEOUT, self._on_header_timeout
            )  # it waits for an answer of ours
        elif self._header_bytes:
            self._send_error(
                HTTPError(408, "timeout", f"request: no whole head within {HEADER_TIMEOUT:g} seconds")
            )
        else:
            self.transport.close()

    def _send_error(self, error: HTTPError) -> None:
        """Answer outside of the routes, and close."""
        request_id = uuid.uuid4().hex
        response = requests.build_error_response(error, request_id)
        response.headers.update(
            {requests.REQUEST_ID_HEADER: request_id, **requests.SECURITY_HEADERS, "connection": "close"}
        )
        header_lines = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
        self.transport.write(STATUS_LINE[error.http_status] + header_lines + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Whatever else a client would rather speak is no matter for the log."""
