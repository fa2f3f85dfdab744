"""HTTP on the wire: uvicorn's protocol, with bounds on what a client may do before its request is whole."""

import uuid
from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from relearn.serving import guard
from relearn.serving.guard import Refusal

# Bytes of a head that is not whole; one that comes at once may be larger by what is read in one piece.
HEAD = 65_536
PATIENCE = 10.0  # seconds for a head, from its first byte or from the beginning of the connection
UNREAD = 30.0  # seconds that an answer may wait for a client that does not read it
CONNECTIONS = 900  # of a worker; most systems give a process 1,024 files


class Protocol(HttpToolsProtocol):
    """One connection. What comes after the head is bounded by the routes."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.ws_protocol_class = None  # whoever wants a websocket is answered as by any other GET
        self._in_head = True
        self._head = 0
        self._timer: TimerHandle | None = None
        self._unread: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            message = f"server: got more connections than its limit, accepted: {CONNECTIONS} a worker"
            self._refuse(Refusal(503, "too_many_connections", message, {"retry-after": "1"}))
        else:
            self._timer = self.loop.call_later(PATIENCE, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        if self._head > HEAD:
            self._refuse(Refusal(431, "head_too_large", f"headers and URL: accepted: up to {HEAD} bytes"))
        elif self._head and self._timer is None:
            self._timer = self.loop.call_later(PATIENCE, self._give_up)

    def on_headers_complete(self) -> None:
        self._wait_no_longer()
        self._in_head, self._head = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._head = True, 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, "invalid_http", "request: got no valid HTTP, accepted: HTTP/1.1"))

    def _wait_no_longer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle and not self.cycle.response_complete:
            self._timer = self.loop.call_later(PATIENCE, self._give_up)  # it waits for an answer of ours
        elif self._head:
            self._refuse(Refusal(408, "timeout", f"request: no whole head within {PATIENCE:g} seconds"))
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer outside of the routes, and close."""
        identity = uuid.uuid4().hex
        answer = guard.envelope(refusal, identity)
        answer.headers.update({guard.REQUEST_ID: identity, **guard.ALWAYS, "connection": "close"})
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        self.transport.write(STATUS_LINE[refusal.status] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Whatever else a client would rather speak is no matter for the log."""
