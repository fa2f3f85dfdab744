"""Request ids, query parameters, media types and bodies of requests."""

import asyncio
import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Send

from relearn.model.errors import UserInputError
from relearn.serving.http.errors import HTTPError

_BODY_READ = "relearn.body_read"  # key in the scope of a request whose body was read completely
MAX_DRAIN_BYTES = 65_536  # bytes of an unread body that are received and discarded
DRAIN_SECONDS = 2.0  # seconds for a client to stop sending a rejected body
REQUEST_ID_HEADER = b"x-request-id"
_MAX_CONTENT_TYPE_LENGTH = 512  # characters of a Content-Type; the longest boundary in use has 70
_MEDIA_TYPE_PATTERN = re.compile(r"[a-z0-9!#$&^_.+*-]{1,64}/[a-z0-9!#$&^_.+*-]{1,64}")
_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def get_or_create_request_id(request: Request) -> str:
    """Return the client's `X-Request-ID` if it is short and plain, else a new id of 32 hex digits."""
    for client_request_id in get_header_values(request, REQUEST_ID_HEADER)[:1]:
        if _REQUEST_ID_PATTERN.fullmatch(client_request_id):
            return client_request_id
    return create_request_id()


def get_header_values(request: Request, name: bytes) -> list[str]:
    """Return the values of a header, named in lower case; `Request.headers` decodes every header instead."""
    return [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]


def build_headers(request_id: str) -> list[tuple[bytes, bytes]]:
    """Build the headers of every response."""
    return [(REQUEST_ID_HEADER, request_id.encode()), (b"x-content-type-options", b"nosniff")]


def create_request_id() -> str:
    """Return 32 random hex digits; a UUID would take four times as long."""
    return os.urandom(16).hex()


def check_query_parameters(request: Request, allowed_names: Collection[str]) -> None:
    """Raise `UserInputError` for a query parameter that is not in `allowed_names`, or occurs twice."""
    if not request.scope["query_string"]:  # nearly always
        return
    parameter_names = [name for name, _ in request.query_params.multi_items()]
    if not set(parameter_names) <= set(allowed_names) or len(parameter_names) != len(set(parameter_names)):
        accepted_text = f"{', '.join(allowed_names)}, each once" if allowed_names else "none"
        message = f"query: got an unknown or repeated parameter, accepted: {accepted_text}"
        raise UserInputError(message, "unknown_parameter")


@dataclass(frozen=True)
class MediaType:
    """A media type: name in lower case, "" if none is declared, and parameters as the client wrote them."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)

    def check_accepted(self, accepted_types: Sequence[str], hint: str = "") -> None:
        """Raise `HTTPError` 415 unless it is one of `accepted_types`; `hint` says what the body is."""
        if self.name not in accepted_types:
            message = f"Content-Type: got {self.name or 'none'}{hint}, accepted: {', '.join(accepted_types)}"
            raise HTTPError(415, "unsupported_media_type", message)


def parse_media_type(request: Request) -> MediaType:
    """Parse the request's `Content-Type`.

    Raises `HTTPError` 415 for a malformed one, for several, for a charset other than UTF-8 and for compressed
    bodies, whose size is unknown before decompression.
    """
    encodings = get_header_values(request, b"content-encoding")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise HTTPError(415, "unsupported_encoding", "Content-Encoding: got one, accepted: none")
    headers = get_header_values(request, b"content-type")
    media_type = _parse_content_type(headers[0]) if len(headers) == 1 else MediaType("")
    if headers and not _MEDIA_TYPE_PATTERN.fullmatch(media_type.name):
        raise HTTPError(
            415,
            "unsupported_media_type",
            "Content-Type: got something else, accepted: one media type, of up to"
            f" {_MAX_CONTENT_TYPE_LENGTH} characters, such as application/json or image/png",
        )
    if media_type.parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise HTTPError(415, "unsupported_charset", "Content-Type: got another charset, accepted: utf-8")
    return media_type


@lru_cache(64)  # clients send few different ones
def _parse_content_type(header: str) -> MediaType:
    """Return the media type of a header, without a name if the header is too long."""
    if len(header) > _MAX_CONTENT_TYPE_LENGTH:
        return MediaType("")
    name, parameters = parse_options_header(header)
    return MediaType(
        name.decode("latin-1").strip().lower(),
        {key.decode("latin-1"): value.decode("latin-1") for key, value in parameters.items()},
    )


def get_client_address(request: Request) -> str:
    """Return the address of the client, "" if the server does not know it."""
    return request.client.host if request.client else ""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the whole body; raise `HTTPError` 413 once it exceeds `max_bytes`, 400 if it is empty.

    The declared length is checked first. Received bytes are counted too: chunked bodies declare no length.
    """
    too_large_error = HTTPError(413, "body_too_large", f"body: accepted: up to {max_bytes} bytes")
    if _declared_length(request) > max_bytes:
        raise too_large_error
    chunks, received_bytes = [], 0
    is_complete = False
    while not is_complete:
        message = await request.receive()  # `Request.stream` does the same in more steps
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        received_bytes += len(chunks[-1])
        if received_bytes > max_bytes:
            raise too_large_error
        is_complete = not message.get("more_body", False)
    request.scope[_BODY_READ] = True
    if not received_bytes:
        raise HTTPError(400, "empty_body", "body: got none, accepted: an image, or JSON as /docs shows it")
    return b"".join(chunks)


def is_body_consumed(request: Request) -> bool:
    """Return whether the body was read, or is short enough for the server to discard."""
    if _BODY_READ in request.scope:
        return True
    is_chunked = bool(get_header_values(request, b"transfer-encoding"))
    return not is_chunked and _declared_length(request) <= MAX_DRAIN_BYTES


def _declared_length(request: Request) -> int:
    """Return the declared length of the body in bytes, 0 without one; the HTTP parser rejects others."""
    return int((get_header_values(request, b"content-length") or ["0"])[0])


async def send_and_close(request: Request, response: Response, send: Send, max_bytes: int) -> None:
    """Send `response` to a request whose body was not read completely, and close the connection.

    An open connection would make the server discard the body for as long as the client sends. Closing at
    once could lose the response, because the client is still sending. So the rest of the body is received
    first, up to `max_bytes` bytes and `DRAIN_SECONDS` seconds.
    """
    response.headers["connection"] = "close"
    received_bytes = 0
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while received_bytes <= max_bytes:
                message = await request.receive()
                received_bytes += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    await send({"type": "http.response.body", "body": b""})
