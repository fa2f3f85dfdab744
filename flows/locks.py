"""Locks between processes; a lock is released when its process dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from relearn.model.errors import InfrastructureError


@contextmanager
def locked(path: Path, busy_message: str, timeout_seconds: float = 0) -> Iterator[None]:
    """Hold the lock `path`; raise `InfrastructureError(busy_message)` after `timeout_seconds`."""
    lock = FileLock(path, timeout=timeout_seconds)
    try:
        lock.acquire()
    except Timeout:
        raise InfrastructureError(busy_message) from None
    try:
        yield
    finally:
        lock.release()
