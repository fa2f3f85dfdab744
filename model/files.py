"""Atomic writes of files and folders, safe against a crash at any moment."""

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`: temporary file in the same folder, fsync, rename, fsync of the folder."""
    with atomic_file(path) as temp_path:
        temp_path.write_bytes(content)


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
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to `path` on success, delete it on an exception.

    An existing folder at `path` is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp_folder = _temp_path(path)
    temp_folder.mkdir()
    try:
        yield temp_folder
        for file in temp_folder.rglob("*"):
            _fsync(file)
        _fsync(temp_folder)
        if path.exists():
            shutil.rmtree(path)
        temp_folder.rename(path)
    except BaseException:
        shutil.rmtree(temp_folder, ignore_errors=True)
        raise
    _fsync(path.parent)


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
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)
