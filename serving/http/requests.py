"""What stands between a client and the routes: sizes, media types, request ids, one form of refusal."""

import asyncio
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from relearn.model.errors import RelearnError, UserInputError

MAX_DRAIN_BYTES = 65_536  # bytes of a body that may come although nobody reads it
DRAIN_SECONDS = 2.0  # seconds that a client is given to stop sending what is not wanted
REQUEST_ID_HEADER = "x-request-id"
SECURITY_HEADERS = {"x-content-type-options": "nosniff"}  # of every answer
_MAX_CONTENT_TYPE_LENGTH = 512  # characters of a Content-Type; the longest boundary that is in use has 70
_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")


class HTTPError(UserInputError):  # nothing went wrong
    """A request that is not answered, with the HTTP status and headers that tell why."""

    def __init__(
        self, http_status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, code)
        self.http_status = http_status
        self.headers = headers or {}


def get_or_create_request_id(request: Request) -> str:
    """The client's `X-Request-ID` where it is short and plain, else a new one of 32 hex digits."""
    client_request_id = request.headers.get(REQUEST_ID_HEADER, "")
    return client_request_id if _REQUEST_ID_PATTERN.fullmatch(client_request_id) else uuid.uuid4().hex


def check_query_parameters(request: Request, allowed_names: Sequence[str]) -> None:
    """Raise `InputError` for a parameter of the query that is not `accepted`, or is there twice."""
    parameter_names = (
        [name for name, _ in request.query_params.multi_items()] if request.scope["query_string"] else []
    )
    if not set(parameter_names) <= set(allowed_names) or len(parameter_names) != len(set(parameter_names)):
        accepted_text = f"{', '.join(allowed_names)}, each once" if allowed_names else "none"
        raise UserInputError(f"query: got another parameter, accepted: {accepted_text}", "unknown_parameter")


@dataclass(frozen=True)
class MediaType:
    """A media type: its name in lower case, its parameters as they were written."""

    name: str
    parameters: dict[str, str]


def parse_media_type(request: Request, accepted_types: Sequence[str]) -> MediaType:
    """The request's media type, one of `accepted`.

    Raises `Refusal` 415 for any other, for none, for a charset that is not UTF-8 and for compressed
    bodies: what cannot be measured before it is unpacked is not taken.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise HTTPError(415, "unsupported_encoding", "Content-Encoding: accepted: none")
    content_types = request.headers.getlist("content-type")
    name, parameters = _parse_content_type(content_types[0]) if len(content_types) == 1 else ("", {})
    if name not in accepted_types:
        raise HTTPError(415, "unsupported_media_type", f"Content-Type: accepted: {', '.join(accepted_types)}")
    if parameters.get("charset", "utf-8").lower() != "utf-8":
        raise HTTPError(415, "unsupported_charset", "Content-Type: accepted charset: utf-8")
    return MediaType(name, parameters)


def _parse_content_type(header: str) -> tuple[str, dict[str, str]]:
    if len(header) > _MAX_CONTENT_TYPE_LENGTH:
        return "", {}
    name, parameters = parse_options_header(header)
    return name.decode("latin-1").strip(), {
        key.decode("latin-1"): value.decode("latin-1") for key, value in parameters.items()
    }


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; `Refusal` 413 as soon as it is known to be over `limit` bytes, 400 when empty.

    The declared length is looked at first, the bytes that come are counted: chunked bodies declare none.
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
    """Whether the body was read, or is so short that what comes of it may be thrown away."""
    if getattr(request.state, "read", False):
        return True
    is_chunked = "transfer-encoding" in request.headers
    content_length = request.headers.get("content-length", "0")
    return not is_chunked and content_length.isdecimal() and int(content_length) <= MAX_DRAIN_BYTES


async def send_and_close(request: Request, response: Response, send: Send, max_bytes: int) -> None:
    """Send `response` to a request whose body was not read to its end, and close the connection.

    The server would throw a body away for as long as it comes. Closed at once, the client might lose the
    answer over the bytes it is still sending: so some of them, and for a while, are waited for.
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


def build_error_response(error: RelearnError, request_id: str) -> Response:
    """The one form of every answer that is not a prediction.

    What went wrong on our side is told by its code alone: its message may name files.
    """
    message = (
        str(error) if isinstance(error, UserInputError) else "the server could not answer; its log says why"
    )
    content = {"error": {"code": error.code, "message": message, "request_id": request_id}}
    headers = error.headers if isinstance(error, HTTPError) else None
    return Response(
        msgspec.json.encode(content), error.http_status, headers=headers, media_type="application/json"
    )
