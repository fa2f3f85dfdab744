"""Writes that are either not there or complete, whenever the process dies."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path`: temporary file beside it, fsync, rename, fsync of the folder."""
    with file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def file(path: Path) -> Iterator[Path]:
    """Yield where to write a file that becomes `path` when the block ends well, and vanishes when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and vanishes when not.

    A folder that stands at `path` already is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


def remove(path: Path) -> None:
    """Take a file or folder away: it is there whole or not at all; what a kill leaves of it lies aside."""
    aside = _beside(path)
    path.rename(aside)
    _sync(path.parent)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def leftovers(folder: Path, pattern: str = ".*.tmp") -> list[Path]:
    """What processes that were killed have left in `folder`; nothing that is still written."""
    return [path for path in folder.glob(pattern) if is_old(path)]


def is_old(path: Path) -> bool:
    """Whether it has not changed for a day: no process takes that long to write anything."""
    return path.stat().st_mtime < time.time() - 86_400


def _beside(path: Path) -> Path:
    """A name of its own in the same folder. Not `tempfile`'s: its files are for the owner alone."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
