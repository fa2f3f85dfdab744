"""Writes that are either not there or complete, whenever the process dies."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: temporary file beside it, fsync, rename, fsync of the folder."""
    with atomic_file(path) as temp_path:
        temp_path.write_bytes(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file that becomes `path` when the block ends well, and vanishes when not."""
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
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when not.

    A folder that stands at `path` already is replaced.
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


def remove_atomically(path: Path) -> None:
    """Take a file or folder away: it is there whole or not at all; what a kill leaves of it lies aside."""
    temp_path = _temp_path(path)
    path.rename(temp_path)
    _fsync(path.parent)
    if temp_path.is_dir():
        shutil.rmtree(temp_path)
    else:
        temp_path.unlink()


def find_stale_temp_files(folder: Path, pattern: str = ".*.tmp") -> list[Path]:
    """What processes that were killed have left in `folder`; nothing that is still written."""
    return [path for path in folder.glob(pattern) if is_stale(path)]


def is_stale(path: Path) -> bool:
    """Whether it has not changed for a day: no process takes that long to write anything."""
    return path.stat().st_mtime < time.time() - 86_400


def _temp_path(path: Path) -> Path:
    """A name of its own in the same folder. Not `tempfile`'s: its files are for the owner alone."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
