"""API keys: who may ask, where not only this machine can."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request

from relearn.model.errors import ConfigError, InputError
from relearn.serving.guard import Refusal
from relearn.serving.settings import API_KEYS, ServeConfig

SHORTEST = 16  # characters
_KEY = re.compile(r"[!-+\--~]{16,}")  # what a header can hold, without the comma that parts keys
_ACCEPTED = f"{SHORTEST} letters, digits or signs or more, without space and comma"


class Keys:
    """Several may be good at the same time, so that each can be replaced while the others are in use.

    Only their SHA-256 is kept: nothing that prints this object tells a key.
    """

    def __init__(self, keys: list[str]) -> None:
        for number, key in enumerate(keys, 1):
            if not _KEY.fullmatch(key):
                raise ConfigError(
                    [f"API keys: number {number} has {len(key)} characters, accepted: {_ACCEPTED}"]
                )
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def of(cls, config: ServeConfig, environment: Mapping[str, str]) -> "Keys":
        """Those of `RELEARN_API_KEYS`, parted by commas, and of the file that is set, one a line.

        Raises `ConfigError` for a key that is too short, or a file without any; `InputError` for a file that
        cannot be read.
        """
        keys = [key.strip() for key in environment.get(API_KEYS, "").split(",") if key.strip()]
        if config.api_keys_file:
            keys += _lines(config.api_keys_file)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, request: Request) -> None:
        """Raise `Refusal` 401 where the request does not bring exactly one key, and a good one."""
        offered = [
            *map(_bearer, request.headers.getlist("authorization")),
            *request.headers.getlist("x-api-key"),
        ]
        if not offered:
            raise _refusal("missing_key", "key: got none")
        if len(offered) > 1:
            raise _refusal("invalid_key", "key: got several")
        digest = _digest(offered[0])
        # All are compared, each in constant time: how long it takes tells nothing of any of them.
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise _refusal("invalid_key", "key: got another one")


def check_reach(config: ServeConfig, keys: Keys) -> None:
    """Raise `ConfigError` for a server that others could reach, and nobody needs a key for."""
    if not config.is_local and not keys:
        accepted = f"127.0.0.1, or keys in {API_KEYS} or in the file of --api-keys-file"
        raise ConfigError([f"host: got {config.host} without API keys, accepted: {accepted}"])


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"api_keys_file: {file} cannot be read: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError([f"api_keys_file: {file} holds no key, accepted: one a line, {_ACCEPTED}"])
    return keys


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key if scheme.lower() == "bearer" else ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _refusal(code: str, message: str) -> Refusal:
    accepted = "accepted: one of the server's, in Authorization: Bearer KEY or in X-API-Key: KEY"
    return Refusal(401, code, f"{message}, {accepted}", {"www-authenticate": "Bearer"})
