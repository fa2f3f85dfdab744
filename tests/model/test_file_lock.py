"""Locks between processes."""

import errno
import fcntl
from pathlib import Path

import pytest

from relearn.model.errors import InfrastructureError
from relearn.model.file_lock import locked, try_locked


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
