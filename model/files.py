"""Atomic writes of files and folders, safe against a crash at any moment; bounded reads of regular files."""

import errno
import glob
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MAX_READ_BYTES = 2**32  # 4 GiB: weights of a billion parameters


def read_regular_file(path: Path, max_bytes: int = MAX_READ_BYTES) -> bytes:
    """Read a file of at most `max_bytes`; raise `OSError` for a folder, link, pipe, device or larger file.

    A plain read would wait for a writer of a pipe, and follow a link to any file.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:  # Path.open takes no opener
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(
                errno.EFBIG, f"got {status.st_size:,} bytes, accepted: at most {max_bytes:,}", str(path)
            )
        return file.read(status.st_size)


def to_csv(frame: "pd.DataFrame") -> str:
    """Render a CSV in which no text is a formula for a spreadsheet: it would start with = + - @ or a tab."""
    guarded = frame.map(_guard_formula)
    return guarded.rename(columns=_guard_formula).to_csv(index=False)


def _guard_formula(value: object) -> object:
    is_formula = isinstance(value, str) and re.match(r"[=+\-@\t\r](?!\d+(\.\d+)?$)", value)
    return f"'{value}" if is_formula else value


def _open_without_waiting(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", path) from None
        raise


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: temporary file in the same folder, fsync, rename, fsync of the folder."""
    with atomic_file(path) as temp_path:
        temp_path.write_bytes(content)


def create_file(path: Path, content: bytes) -> bool:
    """Create `path` with `content` unless it exists; return whether it was created."""
    try:
        with new_file(path) as temp_path:
            temp_path.write_bytes(content)
    except FileExistsError:
        return False
    return True


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file, and create `path` from it; raise `FileExistsError` if it exists.

    Of several processes exactly one creates it, also on NFS; nobody ever sees a part of it. On a file system
    without hard links, such as vfat or CIFS, the caller's lock has to keep other processes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = _temp_path(path)
    try:
        yield temp_path
        _fsync(temp_path)
        try:
            os.link(temp_path, path)
        except FileExistsError:
            if temp_path.stat().st_nlink != 2:  # else NFS lost the answer to a link that was made
                raise
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            temp_path.replace(path)
    finally:
        temp_path.unlink(missing_ok=True)
    _fsync(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file; rename it to `path` on success, delete it on an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_path = _temp_path(path)
    try:
        yield temp_path
        _fsync(temp_path)
        temp_path.replace(path)
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `path` on success, delete it on an exception.

    An existing folder at `path` is replaced; without `replace` only an empty one, else `OSError` is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_folder = _temp_path(path)
    temp_folder.mkdir()
    try:
        yield temp_folder
        sync_folder(temp_folder)
        if replace and path.exists():
            shutil.rmtree(path)
        temp_folder.rename(path)
    except BaseException:
        shutil.rmtree(temp_folder, ignore_errors=True)
        raise
    _fsync(path.parent)


def sync_folder(folder: Path) -> None:
    """Write all files of `folder` to the disk: after a power failure they would be empty."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            _fsync(path)


def remove_leftovers(path: Path) -> None:
    """Delete the temporary folders that killed processes left for `path`, which nobody may be writing now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def remove_atomically(path: Path) -> None:
    """Delete a file or folder by renaming it first; a crash leaves at most a temporary file or folder."""
    temp_path = _temp_path(path)
    path.rename(temp_path)
    _fsync(path.parent)
    if temp_path.is_dir():
        shutil.rmtree(temp_path)
    else:
        temp_path.unlink()


def find_stale_temp_files(folder: Path, pattern: str = ".*.tmp") -> list[Path]:
    """List temporary files that killed processes left in `folder`."""
    return [path for path in folder.glob(pattern) if is_stale(path)]


def is_stale(path: Path) -> bool:
    """Return true if `path` has not changed for a day; no write takes that long."""
    return path.stat().st_mtime < time.time() - 86_400


def _temp_path(path: Path) -> Path:
    """Return a unique path in the folder of `path`. Files of `tempfile` are readable by their owner only."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems sync no folders, others nothing
            raise
    finally:
        os.close(descriptor)
