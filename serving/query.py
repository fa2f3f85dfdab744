"""What the query of a request may switch on or off."""

from starlette.requests import Request

from model.errors import InputError

FLAGS = {"true": True, "false": False}


def flag(request: Request, name: str, default: bool) -> bool:
    """Whether `name` is set in the query; `InputError` for a value that is neither true nor false."""
    asked = request.query_params.get(name)
    if asked is None:
        return default
    if asked not in FLAGS:
        raise InputError(f"{name}: accepted: true or false", "wrong_type")
    return FLAGS[asked]
