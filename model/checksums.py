"""SHA-256 checksums of files."""

import hashlib
from pathlib import Path

from relearn.model.errors import CorruptDataError
from relearn.model.files import read_regular_file


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file of any size as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_verified(path: Path, sha256: str) -> bytes:
    """Read a file; raise `CorruptDataError` if it cannot be read or has another SHA-256."""
    try:
        content = read_regular_file(path)
    except OSError as error:
        raise CorruptDataError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptDataError(f"{path} is not what was saved: its SHA-256 differs")
    return content
