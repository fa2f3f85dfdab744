"""What the query of a prediction may ask for."""

import re
from dataclasses import dataclass
from typing import Self

from starlette.requests import Request

from relearn.model.errors import InputError
from relearn.serving.guard import Refusal

PARAMETERS = ("top_k", "version", "seen", "record")
FLAGS = {"true": True, "false": False}


@dataclass(frozen=True)
class Query:
    """`most` is how many classes the client is told of each image, None for all.

    `seen`: whether each image comes back as the network saw it; `record`: whether this may be recorded.
    """

    most: int | None = None
    seen: bool = False
    record: bool = True

    @classmethod
    def of(cls, request: Request, version: str, classes: int) -> Self:
        """Raises `Refusal` 404 where another version is asked for than the one that is live."""
        if not request.scope["query_string"]:  # as nearly always
            return cls()
        if request.query_params.get("version", version) != version:
            message = f"version: got another one, accepted: {version}, which is live"
            raise Refusal(404, "model_version_not_found", message)
        return cls(
            _top_k(request, classes),
            _flag(request, "seen", default=False),
            _flag(request, "record", default=True),
        )


def _top_k(request: Request, classes: int) -> int | None:
    asked = request.query_params.get("top_k")
    if asked is None:
        return None
    if not re.fullmatch("[0-9]{1,6}", asked):
        raise InputError(f"top_k: got no short whole number, accepted: 1 to {classes}", "out_of_range")
    if not 1 <= int(asked) <= classes:
        raise InputError(f"top_k: got {int(asked)}, accepted: 1 to {classes}", "out_of_range")
    return int(asked)


def _flag(request: Request, name: str, *, default: bool) -> bool:
    asked = request.query_params.get(name)
    if asked is None:
        return default
    if asked not in FLAGS:
        raise InputError(f"{name}: accepted: true or false", "wrong_type")
    return FLAGS[asked]
