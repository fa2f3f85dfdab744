"""Locks between processes, on a file; a lock is released when its process dies.

| file in the home | held by | while |
|---|---|---|
| `checkpoints/RUN/.lock` | training | it trains; a second training of the run fails at once |
| `datasets/.KEY.lock` | training | one of several first runs prepares the data, the others wait |
| `.mlflow.db.lock` | any command | MLflow's database is created |
| `prefect/.starting.lock` | any flow | a temporary Prefect server starts |
| `releases/NAME/.lock` | release, rollback | a decision is made |
| `feedback/NAME/.lock` | feedback | decisions are appended |
| `monitoring/NAME/.lock` | monitor | alerts are emitted |
| `up/.lock` | `relearn up` | it runs |
| `.worker.lock` | worker | interrupted runs are retried; the other workers skip the pass |
| `.prune.lock` | `relearn prune` | it runs |
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from relearn.model.errors import InfrastructureError


@contextmanager
def _explain_missing_locks(path: Path) -> Iterator[None]:
    """Name the cause where a file system, such as some network file systems, has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        raise InfrastructureError(
            f"cannot lock {path}: {error.strerror}; the home has to be on a file system with locks, such as a"
            " local disk: set RELEARN_HOME"
        ) from None


@contextmanager
def locked(path: Path, busy_message: str, timeout_seconds: float = 0) -> Iterator[None]:
    """Hold the lock `path`; raise `InfrastructureError(busy_message)` after `timeout_seconds`."""
    lock = FileLock(path, timeout=timeout_seconds)
    try:
        with _explain_missing_locks(path):
            lock.acquire()
    except Timeout:
        raise InfrastructureError(busy_message) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock `path` if it is free; yield whether it was."""
    lock = FileLock(path, timeout=0)
    with suppress(Timeout), _explain_missing_locks(path):
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()  # does nothing if it is not held
