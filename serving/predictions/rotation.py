"""Append-only files of lines that survive a kill of the worker; above a total size the oldest are deleted."""

import fcntl
import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

MAX_FILES = 16  # files within one limit: rotation deletes 1/16 of it at once


class RotatingFiles:
    """The files `KIND-….jsonl` in `folder`, together at most `max_total_bytes`; each has one writer.

    Appended lines are in the page cache of the operating system: a killed process loses none of them. A kill
    during a write truncates the last line. The least recently written file is deleted first, whichever
    process made it.
    """

    def __init__(self, folder: Path, kind: str, max_total_bytes: int) -> None:
        self.folder, self.kind, self.max_total_bytes = folder, kind, max_total_bytes
        self._file: FileIO | None = None

    def append(self, lines: bytes) -> None:
        """Append complete lines; raise `OSError` if the disk does not take all of them."""
        max_file_bytes, start = self.max_total_bytes // MAX_FILES, 0
        while start < len(lines):
            end = lines.rfind(b"\n", start, start + max_file_bytes) + 1 or lines.index(b"\n", start) + 1
            if not self._has_room(end - start, max_file_bytes):
                self.close()
            self._file = self._file or self._open_new_file()
            _write_all_or_nothing(self._file, memoryview(lines)[start:end])
            self._prune()
            start = end

    def close(self) -> None:
        """Close the current file; the next append starts another one."""
        if self._file:
            self._file.close()
        self._file = None

    def _has_room(self, byte_count: int, max_file_bytes: int) -> bool:
        """Return whether the current file exists, undeleted by other processes, and its size allows more."""
        stat = os.fstat(self._file.fileno()) if self._file else None
        return stat is not None and stat.st_nlink > 0 and stat.st_size + byte_count <= max_file_bytes

    def _open_new_file(self) -> FileIO:
        self._cut_truncated_lines()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{self.kind}-{time.time_ns()}-{os.getpid()}.jsonl"
        file = FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags | os.O_APPEND, 0o600))
        with suppress(OSError):  # a file system without locks: truncated lines are then kept
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed or its process ends
        return file

    def _cut_truncated_lines(self) -> None:
        """Cut the truncated last line of each file without a living writer; `pandas` would not parse it."""
        for path in self.folder.glob(f"{self.kind}-*.jsonl"):
            with suppress(OSError), path.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)

    def _prune(self) -> None:
        with suppress(FileNotFoundError):  # another process prunes
            files = [(file.stat(), file) for file in self.folder.glob(f"{self.kind}-*")]
            excess_bytes = sum(stat.st_size for stat, _ in files) - self.max_total_bytes
            for stat, file in sorted(files, key=lambda item: item[0].st_mtime_ns):
                if excess_bytes <= 0:
                    return
                file.unlink()
                excess_bytes -= stat.st_size


def _write_all_or_nothing(file: FileIO, lines: memoryview) -> None:
    size = os.fstat(file.fileno()).st_size
    try:
        while lines:
            lines = lines[file.write(lines) :]
    except OSError:
        file.truncate(size)
        raise
