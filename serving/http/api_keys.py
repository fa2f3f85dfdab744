"""API keys: their loading, and the authentication of requests."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request

from relearn.model.errors import ConfigError, UserInputError
from relearn.serving.config import API_KEYS, ServeConfig
from relearn.serving.http.errors import HTTPError

MIN_KEY_LENGTH = 16  # characters
_KEY_PATTERN = re.compile(r"[!-+\--~]{16,}")  # characters of a header, without the comma between keys
_KEY_FORMAT = f"at least {MIN_KEY_LENGTH} letters, digits or punctuation marks, no spaces or commas"


class ApiKeys:
    """The API keys of a server; several may be valid at once, to replace one without downtime.

    Only their SHA-256 digests are kept: printing this object shows no key.
    """

    def __init__(self, keys: list[str]) -> None:
        for number, key in enumerate(keys, 1):
            if not _KEY_PATTERN.fullmatch(key):
                raise ConfigError(
                    [f"API keys: number {number} has {len(key)} characters, accepted: {_KEY_FORMAT}"]
                )
        self._digests = [_hash_key(key) for key in keys]

    @classmethod
    def from_config(cls, config: ServeConfig, environment: Mapping[str, str]) -> "ApiKeys":
        """Load the keys of `RELEARN_API_KEYS`, separated by commas, and of `api_keys_file`, one per line.

        Raises `ConfigError` for a malformed key or a file without keys, `UserInputError` for an unreadable
        file.
        """
        keys = [key.strip() for key in environment.get(API_KEYS, "").split(",") if key.strip()]
        if config.api_keys_file:
            keys += _read_keys_file(config.api_keys_file)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def authenticate(self, request: Request) -> None:
        """Raise `HTTPError` 401 unless the request carries exactly one key and the key is valid."""
        presented_keys = [
            *map(_parse_bearer, request.headers.getlist("authorization")),
            *request.headers.getlist("x-api-key"),
        ]
        if not presented_keys:
            raise _unauthorized_error("missing_key", "key: got none")
        if len(presented_keys) > 1:
            raise _unauthorized_error("invalid_key", "key: got several")
        digest = _hash_key(presented_keys[0])
        # All keys are compared, each in constant time: the duration reveals nothing about any key.
        if not sum(hmac.compare_digest(digest, key_digest) for key_digest in self._digests):
            raise _unauthorized_error("invalid_key", "key: got an unknown one")


def require_keys_if_public(config: ServeConfig, api_keys: ApiKeys) -> None:
    """Raise `ConfigError` for a server that other machines can reach without a key."""
    if not config.is_local and not api_keys:
        hint = f"127.0.0.1, or keys in {API_KEYS} or in the file of --api-keys-file"
        raise ConfigError([f"host: got {config.host} without API keys, accepted: {hint}"])


def _read_keys_file(file: Path) -> list[str]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserInputError(f"api_keys_file: {file} cannot be read: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError([f"api_keys_file: {file} has no key, accepted: one per line, {_KEY_FORMAT}"])
    return keys


def _parse_bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key if scheme.lower() == "bearer" else ""


def _hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _unauthorized_error(code: str, message: str) -> HTTPError:
    hint = "accepted: a key of this server, in Authorization: Bearer KEY or in X-API-Key: KEY"
    return HTTPError(401, code, f"{message}, {hint}", {"www-authenticate": "Bearer"})
