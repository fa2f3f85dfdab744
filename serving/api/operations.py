"""A route of the API: its method, path and handler, its access rules, and its description."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

# Meaning of each error status.
ERRORS = {
    400: "The request or its body is malformed or ambiguous.",
    401: "No valid API key, or several keys.",
    403: "Request from another machine, host name, proxy or site to a server without API keys.",
    404: "The path does not exist, or another version is live.",
    409: "The prediction log is off.",
    413: "The body or the number of images exceeds its limit.",
    415: "The media type, charset, encoding or image format is not accepted.",
    422: "The request is well-formed, but invalid for this classifier.",
    429: "The worker's limit of concurrent requests is reached.",
    500: "The server failed; its log has the reason.",
    503: "No classifier is released yet, or the server is stopping.",
    504: "The request took too long.",
}


@dataclass(frozen=True)
class Operation:
    """A method of a path. The first line of the handler's docstring is its summary.

    `response` is the type of a JSON response, or the media type of another; `request` the type of a JSON
    body, which may also have one of `media_types`. `parameters` are the schemas of the query by name. A
    public operation needs no key; one without a limit is served under any load. `tag` is its group on the
    page of the document.
    """

    tag: str
    method: str
    path: str
    handler: Callable[..., Awaitable[Response]]
    response: type[msgspec.Struct] | str
    request: type[msgspec.Struct] | None = None
    media_types: tuple[str, ...] = ()
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra_errors: tuple[int, ...] = ()
    is_public: bool = False
    is_limited: bool = True

    @property
    def allowed_methods(self) -> str:
        """The accepted methods, as the header `Allow` lists them."""
        return "GET, HEAD" if self.method == "GET" else self.method

    @property
    def summary(self) -> str:
        """First line of the handler's docstring."""
        return (self.handler.__doc__ or "").partition("\n")[0]

    @property
    def error_statuses(self) -> list[int]:
        """The statuses of errors that this operation may return, ascending."""
        access_errors = {401: not self.is_public, 429: self.is_limited}
        return sorted(
            {400, 403, 422, 500, 503, 504, *self.extra_errors}
            | {status for status, applies in access_errors.items() if applies}
        )
