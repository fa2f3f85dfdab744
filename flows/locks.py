"""Locks between processes; the lock of a process that dies is free."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from relearn.model.errors import InfrastructureError


@contextmanager
def locked(path: Path, busy: str, seconds: float = 0) -> Iterator[None]:
    """Hold the lock `path`; raises `MachineError`, `busy`, where another process holds it too long."""
    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise InfrastructureError(busy) from None
    try:
        yield
    finally:
        lock.release()
