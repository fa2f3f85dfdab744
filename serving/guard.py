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

from relearn.model.errors import InputError, RelearnError

SHORT = 65_536  # bytes of a body that may come although nobody reads it
LINGER = 2.0  # seconds that a client is given to stop sending what is not wanted
REQUEST_ID = "x-request-id"
ALWAYS = {"x-content-type-options": "nosniff"}  # of every answer
_LONGEST_TYPE = 512  # characters of a Content-Type; the longest boundary that is in use has 70
_OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Refusal(InputError):  # noqa: N818  # nothing went wrong
    """A request that is not answered, with the HTTP status and headers that tell why."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, code)
        self.status = status
        self.headers = headers or {}


def request_id(request: Request) -> str:
    """The client's `X-Request-ID` where it is short and plain, else a new one of 32 hex digits."""
    asked = request.headers.get(REQUEST_ID, "")
    return asked if _OWN_ID.fullmatch(asked) else uuid.uuid4().hex


def check_query(request: Request, accepted: Sequence[str]) -> None:
    """Raise `InputError` for a parameter of the query that is not `accepted`, or is there twice."""
    names = [name for name, _ in request.query_params.multi_items()] if request.scope["query_string"] else []
    if not set(names) <= set(accepted) or len(names) != len(set(names)):
        told = f"{', '.join(accepted)}, each once" if accepted else "none"
        raise InputError(f"query: got another parameter, accepted: {told}", "unknown_parameter")


@dataclass(frozen=True)
class MediaType:
    """A media type: its name in lower case, its parameters as they were written."""

    name: str
    parameters: dict[str, str]


def media_type(request: Request, accepted: Sequence[str]) -> MediaType:
    """The request's media type, one of `accepted`.

    Raises `Refusal` 415 for any other, for none, for a charset that is not UTF-8 and for compressed
    bodies: what cannot be measured before it is unpacked is not taken.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refusal(415, "unsupported_encoding", "Content-Encoding: accepted: none")
    declared = request.headers.getlist("content-type")
    name, parameters = _parsed(declared[0]) if len(declared) == 1 else ("", {})
    if name not in accepted:
        raise Refusal(415, "unsupported_media_type", f"Content-Type: accepted: {', '.join(accepted)}")
    if parameters.get("charset", "utf-8").lower() != "utf-8":
        raise Refusal(415, "unsupported_charset", "Content-Type: accepted charset: utf-8")
    return MediaType(name, parameters)


def _parsed(header: str) -> tuple[str, dict[str, str]]:
    if len(header) > _LONGEST_TYPE:
        return "", {}
    name, parameters = parse_options_header(header)
    return name.decode("latin-1").strip(), {
        key.decode("latin-1"): value.decode("latin-1") for key, value in parameters.items()
    }


async def body(request: Request, limit: int) -> bytes:
    """The whole body; `Refusal` 413 as soon as it is known to be over `limit` bytes, 400 when empty.

    The declared length is looked at first, the bytes that come are counted: chunked bodies declare none.
    """
    too_large = Refusal(413, "body_too_large", f"body: accepted: up to {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large
        pieces.append(piece)
    request.state.read = True
    if not size:
        raise Refusal(400, "empty_body", "body: got none, accepted: one image or several")
    return b"".join(pieces)


def is_over(request: Request) -> bool:
    """Whether the body was read, or is so short that what comes of it may be thrown away."""
    if getattr(request.state, "read", False):
        return True
    chunked = "transfer-encoding" in request.headers
    length = request.headers.get("content-length", "0")
    return not chunked and length.isdecimal() and int(length) <= SHORT


async def part(request: Request, response: Response, send: Send, limit: int) -> None:
    """Send `response` to a request whose body was not read to its end, and close the connection.

    The server would throw a body away for as long as it comes. Closed at once, the client might lose the
    answer over the bytes it is still sending: so some of them, and for a while, are waited for.
    """
    response.headers["connection"] = "close"
    size = 0
    await send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while size <= limit:
                piece = await request.receive()
                size += len(piece.get("body", b""))
                if not piece.get("more_body"):
                    break
    await send({"type": "http.response.body", "body": b""})


def envelope(error: RelearnError, identity: str) -> Response:
    """The one form of every answer that is not a prediction.

    What went wrong on our side is told by its code alone: its message may name files.
    """
    message = str(error) if isinstance(error, InputError) else "the server could not answer; its log says why"
    content = {"error": {"code": error.code, "message": message, "request_id": identity}}
    headers = error.headers if isinstance(error, Refusal) else None
    return Response(
        msgspec.json.encode(content), error.status, headers=headers, media_type="application/json"
    )
