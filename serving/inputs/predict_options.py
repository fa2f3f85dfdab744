"""Query parameters of a prediction request."""

import re
from dataclasses import dataclass
from typing import Any, Self

from starlette.requests import Request

from relearn.model.errors import UserInputError
from relearn.serving.http.errors import HTTPError

# Each parameter and its JSON schema; `top_k` is also limited by the number of classes.
PARAMETERS: dict[str, dict[str, Any]] = {
    "top_k": {
        "type": "integer",
        "minimum": 1,
        "description": "Number of classes per image in the response, the most likely first.",
    },
    "version": {"type": "string", "description": "Fail with 404 unless this version is live."},
    "return_input": {
        "type": "boolean",
        "default": False,
        "description": "Return each image as the network received it.",
    },
    "log": {
        "type": "boolean",
        "default": True,
        "description": "Allow an entry in the prediction log.",
    },
}
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction.

    `top_k` is the number of classes per image in the response, None for all. `return_input` returns each
    image as the network received it. `should_log` allows an entry in the prediction log.
    """

    top_k: int | None = None
    return_input: bool = False
    should_log: bool = True

    @classmethod
    def from_request(cls, request: Request, live_version: str, class_count: int) -> Self:
        """Parse the query; raise `HTTPError` 404 if it requests another version than `live_version`."""
        if not request.scope["query_string"]:  # nearly always
            return cls()
        if request.query_params.get("version", live_version) != live_version:
            message = f"version: got another one, accepted: {live_version}, the live version"
            raise HTTPError(404, "model_version_not_found", message)
        return cls(
            _parse_top_k(request, class_count),
            _parse_flag(request, "return_input", default=False),
            _parse_flag(request, "log", default=True),
        )


def _parse_top_k(request: Request, class_count: int) -> int | None:
    value = request.query_params.get("top_k")
    if value is None:
        return None
    if not re.fullmatch("[0-9]{1,6}", value):
        raise UserInputError(
            f"top_k: got no integer of up to 6 digits, accepted: 1 to {class_count}", "out_of_range"
        )
    if not 1 <= int(value) <= class_count:
        raise UserInputError(f"top_k: got {int(value)}, accepted: 1 to {class_count}", "out_of_range")
    return int(value)


def _parse_flag(request: Request, name: str, *, default: bool) -> bool:
    value = request.query_params.get(name)
    if value is None:
        return default
    if value not in BOOLEANS:
        raise UserInputError(f"{name}: got another value, accepted: true or false", "wrong_type")
    return BOOLEANS[value]
