"""Locks between processes, on a file; a lock is released when its process dies.

| file in the home | held by | while |
|---|---|---|
| `checkpoints/RUN/.lock` | training | it trains; a second training of the run fails at once |
| `datasets/.KEY.lock` | training | one of several first runs prepares the data, the others wait |
| `.mlflow.db.lock` | any command | MLflow's database is created |
| `prefect/.starting.lock` | any flow | a temporary Prefect server starts |
| `releases/NAME/.lock` | release, rollback | a decision is made or the live pointer repaired |
| `feedback/NAME/.lock` | feedback | decisions are appended |
| `monitoring/NAME/.lock` | monitor | alerts are emitted |
| `up/.lock` | `relearn up` | it runs |
| `.worker.lock` | worker | interrupted runs are retried; the other workers skip the pass |
| `.prune.lock` | `relearn prune` | it runs |
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock `path` if it is free; yield whether it was."""
    lock = FileLock(path, timeout=0)
    with suppress(Timeout):
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()  # does nothing if it is not held
