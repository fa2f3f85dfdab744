"""Request ids, query parameters, media types and bodies of requests."""

import asyncio
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from relearn.model.errors import UserInputError
from relearn.serving.http.errors import HTTPError

MAX_DRAIN_BYTES = 65_536  # bytes of an unread body that are received and discarded
DRAIN_SECONDS = 2.0  # seconds for a client to stop sending a rejected body
REQUEST_ID_HEADER = "x-request-id"
SECURITY_HEADERS = {"x-content-type-options": "nosniff"}  # of every response
_MAX_CONTENT_TYPE_LENGTH = 512  # characters of a Content-Type; the longest boundary in use has 70
_MEDIA_TYPE_PATTERN = re.compile(r"[a-z0-9!#$&^_.+*-]{1,64}/[a-z0-9!#$&^_.+*-]{1,64}")
_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def get_or_create_request_id(request: Request) -> str:
    """Return the client's `X-Request-ID` if it is short and plain, else a new id of 32 hex digits."""
    client_request_id = request.headers.get(REQUEST_ID_HEADER, "")
    return client_request_id if _REQUEST_ID_PATTERN.fullmatch(client_request_id) else uuid.uuid4().hex


def check_query_parameters(request: Request, allowed_names: Sequence[str]) -> None:
    """Raise `UserInputError` for a query parameter that is not in `allowed_names`, or occurs twice."""
    parameter_names = (
        [name for name, _ in request.query_params.multi_items()] if request.scope["query_string"] else []
    )
    if not set(parameter_names) <= set(allowed_names) or len(parameter_names) != len(set(parameter_names)):
        accepted_text = f"{', '.join(allowed_names)}, each once" if allowed_names else "none"
        raise UserInputError(f"query: got another parameter, accepted: {accepted_text}", "unknown_parameter")


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
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPError(415, "unsupported_encoding", "Content-Encoding: accepted: none")
    headers = request.headers.getlist("content-type")
    if not headers:
        return MediaType("")
    name, parameters = parse_options_header(headers[0][: _MAX_CONTENT_TYPE_LENGTH + 1])
    media_type = MediaType(
        name.decode("latin-1").strip().lower(),
        {key.decode("latin-1"): value.decode("latin-1") for key, value in parameters.items()},
    )
    if (
        len(headers) > 1
        or len(headers[0]) > _MAX_CONTENT_TYPE_LENGTH
        or not _MEDIA_TYPE_PATTERN.fullmatch(media_type.name)
    ):
        raise HTTPError(
            415,
            "unsupported_media_type",
            f"Content-Type: accepted: one media type, of up to {_MAX_CONTENT_TYPE_LENGTH} characters, such as"
            " application/json or image/png",
        )
    if media_type.parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise HTTPError(415, "unsupported_charset", "Content-Type: accepted charset: utf-8")
    return media_type


def get_client_address(request: Request) -> str:
    """Return the address of the client, "" if the server does not know it."""
    return request.client.host if request.client else ""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read the whole body; raise `HTTPError` 413 once it exceeds `max_bytes`, 400 if it is empty.

    The declared length is checked first. Received bytes are counted too: chunked bodies declare no length.
    """
    too_large_error = HTTPError(413, "body_too_large", f"body: accepted: up to {max_bytes} bytes")
    content_length = request.headers.get("content-length", "0")
    if content_length.isdecimal() and int(content_length) > max_bytes:
        raise too_large_error
    chunks, received_bytes = [], 0
    async for chunk in request.stream():
        received_bytes += len(chunk)
        if received_bytes > max_bytes:
            raise too_large_error
        chunks.append(chunk)
    request.state.read = True
    if not received_bytes:
        raise HTTPError(400, "empty_body", "body: got none, accepted: one image or several")
    return b"".join(chunks)


def is_body_consumed(request: Request) -> bool:
    """Return whether the body was read, or is short enough for the server to discard."""
    if getattr(request.state, "read", False):
        return True
    is_chunked = "transfer-encoding" in request.headers
    content_length = request.headers.get("content-length", "0")
    return not is_chunked and content_length.isdecimal() and int(content_length) <= MAX_DRAIN_BYTES


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
