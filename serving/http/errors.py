"""HTTP errors and their JSON response."""

import msgspec
from starlette.responses import Response

from relearn.model.errors import InvalidModelOutputError, RelearnError, UserInputError


class HTTPError(UserInputError):  # the client's error, not the server's
    """An error with the HTTP status and headers of its response."""

    def __init__(
        self, http_status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, code)
        self.http_status = http_status
        self.headers = headers or {}


class ErrorDetail(msgspec.Struct):
    """Description of an error: the cause, the input, the accepted input; only `code` is stable."""

    code: str
    message: str
    request_id: str


class ErrorResponse(msgspec.Struct):
    """The response of every error."""

    error: ErrorDetail


def build_error_response(error: RelearnError, request_id: str) -> Response:
    """Build the JSON response of an error, in the format of all errors.

    The response of most server-side errors contains only the code: their messages may contain file names.
    """
    if isinstance(error, UserInputError):
        message = str(error)
    elif isinstance(error, InvalidModelOutputError):
        message = error.public_message
    else:
        message = "the server could not answer; its log has the reason"
    content = ErrorResponse(ErrorDetail(error.code, message, request_id))
    headers = error.headers if isinstance(error, HTTPError) else None
    return Response(
        msgspec.json.encode(content), error.http_status, headers=headers, media_type="application/json"
    )
