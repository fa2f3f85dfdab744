"""Append-only files that survive a kill of the worker; above a total size the oldest are deleted."""

import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

MAX_FILES = 16  # files within one limit: rotation deletes 1/16 of it at once


class RotatingFiles:
    """The files of one `kind` in `folder`, together at most `max_total_bytes`; one process per file.

    Every file starts with a header that describes its content. Appended bytes are in the page cache of the
    operating system: a killed process loses none of them. The least recently written file is deleted
    first, whichever process made it.
    """

    def __init__(self, folder: Path, kind: str, max_total_bytes: int) -> None:
        self.folder, self.kind, self.max_total_bytes = folder, kind, max_total_bytes
        self._file: FileIO | None = None
        self._header = b""
        self._file_bytes = 0

    @property
    def max_file_bytes(self) -> int:
        """Maximum size of one file and of one append, in bytes."""
        return self.max_total_bytes // MAX_FILES

    def append(self, header: bytes, content: bytes) -> None:
        """Append all of `content` to a file with this `header`, or nothing and raise `OSError`."""
        if (
            header != self._header
            or self._file_bytes + len(content) > self.max_file_bytes
            or not self._is_file_on_disk()
        ):
            self.close()
        try:
            if self._file is None:
                self._file, self._header = self._open_new_file(), header
                content = header + content
            _write_all(self._file, content)
        except OSError:
            self._roll_back()
            raise
        self._file_bytes += len(content)
        self._prune()

    def close(self) -> None:
        """Close the current file; the next append starts another one."""
        if self._file:
            self._file.close()
        self._file, self._file_bytes = None, 0

    def _open_new_file(self) -> FileIO:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{self.kind}-{time.time_ns()}-{os.getpid()}"
        return FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))

    def _is_file_on_disk(self) -> bool:
        """Return whether the current file still exists; another process may have deleted it."""
        return self._file is not None and os.fstat(self._file.fileno()).st_nlink > 0

    def _roll_back(self) -> None:
        """Truncate the file to its size before a partial write, which would shift every later row."""
        if self._file:
            with suppress(OSError):
                if self._file_bytes:
                    self._file.truncate(self._file_bytes)
                else:
                    Path(self._file.name).unlink()
        self.close()

    def _prune(self) -> None:
        stat_by_file = {
            file: stat for file in self.folder.glob(f"{self.kind}-*") if (stat := _stat_if_exists(file))
        }
        excess_bytes = sum(stat.st_size for stat in stat_by_file.values()) - self.max_total_bytes
        for file, stat in sorted(stat_by_file.items(), key=lambda item: item[1].st_mtime_ns):
            if excess_bytes <= 0:
                return
            file.unlink(missing_ok=True)
            excess_bytes -= stat.st_size


def _write_all(file: FileIO, content: bytes) -> None:
    remaining = memoryview(content)
    while remaining:
        remaining = remaining[file.write(remaining) :]


def _stat_if_exists(file: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):  # deleted by another worker
        return file.stat()
    return None
