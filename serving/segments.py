"""Files that only grow, and go when they are old: what a worker keeps, whole whenever it dies."""

import os
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

PARTS = 16  # files that share a limit: so much of it goes at once


class Segments:
    """The files of one `kind` in `folder`, together at most `limit` bytes; one process appends to each.

    Every file starts with a head, which tells how to read what follows. What was appended is the system's:
    a process that is killed loses none of it. The file that was longest untouched goes first, whichever
    process made it.
    """

    def __init__(self, folder: Path, kind: str, limit: int) -> None:
        self.folder, self.kind, self.limit = folder, kind, limit
        self._file: FileIO | None = None
        self._head = b""
        self._size = 0

    @property
    def most(self) -> int:
        """Bytes of one file, and so the most that should be appended at once."""
        return self.limit // PARTS

    def append(self, head: bytes, content: bytes) -> None:
        """Add `content` after the same `head`, all of it or, with an `OSError`, nothing."""
        if head != self._head or self._size + len(content) > self.most or not self._is_there():
            self.close()
        try:
            if self._file is None:
                self._file, self._head = self._new(), head
                content = head + content
            _write(self._file, content)
        except OSError:
            self._undo()
            raise
        self._size += len(content)
        self._prune()

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file, self._size = None, 0

    def _new(self) -> FileIO:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{self.kind}-{time.time_ns()}-{os.getpid()}"
        return FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))

    def _is_there(self) -> bool:
        """Whether nobody has removed the file meanwhile."""
        return self._file is not None and os.fstat(self._file.fileno()).st_nlink > 0

    def _undo(self) -> None:
        """Take back what was written of a piece: it would shift all that follows it."""
        if self._file:
            with suppress(OSError):
                if self._size:
                    self._file.truncate(self._size)
                else:
                    Path(self._file.name).unlink()
        self.close()

    def _prune(self) -> None:
        sizes = {file: stat for file in self.folder.glob(f"{self.kind}-*") if (stat := _stat(file))}
        over = sum(stat.st_size for stat in sizes.values()) - self.limit
        for file, stat in sorted(sizes.items(), key=lambda one: one[1].st_mtime_ns):
            if over <= 0:
                return
            file.unlink(missing_ok=True)
            over -= stat.st_size


def _write(file: FileIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _stat(file: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):  # another worker's pruning
        return file.stat()
    return None
