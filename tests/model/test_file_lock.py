"""Locks between processes."""

import errno
import fcntl
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from relearn.model import file_lock
from relearn.model.errors import InfrastructureError
from relearn.model.file_lock import describe_database_lock, locked, try_locked


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the file and says what to do."""

    def fail(*_: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    message = f"cannot lock {tmp_path / '.lock'}: .*set RELEARN_HOME"
    with pytest.raises(InfrastructureError, match=message), locked(tmp_path / ".lock", "busy"):
        pass
    with pytest.raises(InfrastructureError, match=message), try_locked(tmp_path / ".lock"):
        pass


HOLDER = f", process {os.getpid()}" if sys.platform == "linux" else ""


def test_wait_for_a_lock_names_file_and_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First in a notice, while the wait goes on, and then in the error."""
    monkeypatch.setattr(file_lock, "NOTICE_SECONDS", 0.01)
    path, notices = tmp_path / ".lock", list[str]()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(InfrastructureError) as raised,
            locked(path, "busy", 0.02, notices.append),
        ):
            pass
    assert str(raised.value).startswith(f"busy: {path} is locked")
    assert str(raised.value).endswith(HOLDER)
    assert [f"{raised.value}; waiting for at most 0.02 seconds"] == notices


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_locked_database_is_named_with_its_holder(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both kinds of journal; a database that others only read or that is damaged is not locked."""
    monkeypatch.setattr(file_lock, "DATABASE_TIMEOUT_SECONDS", 0.01)
    file = tmp_path / "a%41 b.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"pragma journal_mode = {mode}")
        database.execute("create table t (x)")
        database.execute("begin")
        database.execute("select * from t").fetchall()
        assert "" == describe_database_lock(file)
        database.execute("rollback")
        database.execute("begin exclusive")
        lock = describe_database_lock(file)
    assert lock.startswith(f"{file} is locked by ")
    assert lock.endswith(HOLDER)
    file.write_bytes(b"no database" * 1_000)
    assert "" == describe_database_lock(file)
