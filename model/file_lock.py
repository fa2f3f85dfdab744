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
| `.reconcile.lock` | worker, flows | interrupted runs are closed and retried; others skip it |
| `.prune.lock` | `relearn home prune`, `relearn home backup` | it runs |
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from relearn.model.errors import InfrastructureError

LOCKS = Path("/proc/locks")  # of Linux
NOTICE_SECONDS = 1.5  # of waiting until the reason is shown
DATABASE_TIMEOUT_SECONDS = 6.0  # a transaction takes milliseconds
DATABASE_FIX = "wait until that process has finished, or end it"


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
def locked(
    path: Path,
    busy_message: str,
    timeout_seconds: float = 0,
    notify: Callable[[str], object] = lambda _reason: None,
) -> Iterator[None]:
    """Hold the lock `path`; raise `InfrastructureError` with `busy_message` after `timeout_seconds`.

    After `NOTICE_SECONDS` of waiting `notify` gets the reason.
    """
    lock = FileLock(path)
    with _explain_missing_locks(path):
        try:
            lock.acquire(min(timeout_seconds, NOTICE_SECONDS))
        except Timeout:
            reason = f"{busy_message}: {path} is locked{_describe_holder(path)}"
            try:
                notify(f"{reason}; waiting for at most {timeout_seconds:g} seconds")
                lock.acquire(max(0.0, timeout_seconds - NOTICE_SECONDS))
            except Timeout:
                raise InfrastructureError(reason) from None
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


def describe_database_lock(file: Path) -> str:
    """Return which process keeps the SQLite database `file` locked for some seconds; "" if none does."""
    url = f"file:{quote(str(file))}?mode=rw"
    try:
        with closing(sqlite3.connect(url, timeout=DATABASE_TIMEOUT_SECONDS, uri=True)) as database:
            database.execute("begin immediate")
    except sqlite3.Error as error:  # other errors are reported by those who read the database
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return describe_locked_database(file)
    return ""


def describe_locked_database(file: Path) -> str:
    """Return which process has locked the SQLite database `file`, as far as it is known."""
    holder = _describe_holder(file) or _describe_holder(file.with_name(f"{file.name}-shm"))
    return f"{file} is locked{holder or ' by another process'}"


def _describe_holder(path: Path) -> str:
    """Return ` by NAME, process ID` for the process that has locked `path`; "" if it is unknown."""
    with suppress(OSError, ValueError):
        status = path.stat()
        file_id = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in LOCKS.read_text().splitlines():
            _, _, _, access, process_id, locked_id, *_ = line.split()
            if (access, locked_id) == ("WRITE", file_id):
                name = Path(f"/proc/{process_id}/comm").read_text().strip()
                return f" by {name}, process {process_id}"
    return ""
