"""Append-only log of decisions in a file, one JSON line each; a hash chain reveals changed and lost lines."""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.files import read_regular_file

MAX_LOG_BYTES = 2**28  # 256 MB: 250,000 decisions


class LogEntry(BaseModel):
    """Fields of every line: number from 1, time of writing, SHA-256 of the previous line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    decided_at: AwareDatetime
    previous_hash: str


EntryT = TypeVar("EntryT", bound=LogEntry)


class HashChainedLog(Generic[EntryT]):
    """Append-only JSON-lines log at `path`, with entries of `entry_type`.

    Each line holds the SHA-256 of the line before it; an incomplete last line is ignored. The caller locks.
    """

    def __init__(self, path: Path, entry_type: type[EntryT]) -> None:
        self.path, self.entry_type = path, entry_type

    def read_entries(self) -> list[EntryT]:
        """Return all entries, oldest first; raise `CorruptDataError` if a line was changed or is missing.

        A last line without a line break is ignored: its process was killed during the write.
        """
        entries: list[EntryT] = []
        previous_hash = ""
        for number, line in enumerate(self._read_lines(), 1):
            try:
                entry = self.entry_type.model_validate_json(line)
            except ValidationError as error:
                raise CorruptDataError(f"{self.path}, line {number}: {str(error).splitlines()[0]}") from None
            if (entry.number, entry.previous_hash) != (number, previous_hash):
                raise CorruptDataError(
                    f"{self.path}, line {number} does not follow the line before it: one was changed or lost"
                )
            previous_hash = hashlib.sha256(line).hexdigest()
            entries.append(entry)
        return entries

    def read_last(self) -> EntryT | None:
        """Return the newest entry; None if the log is empty."""
        return next(reversed(self.read_entries()), None)

    def append_entries(self, *decisions: Mapping[str, Any]) -> list[EntryT]:
        """Append `decisions`, each with the fields of the entry type except those of `LogEntry`.

        Returns the new entries once they are on disk. A process that is killed meanwhile has appended none,
        the first few, or all of them. The caller holds a lock.
        """
        existing_lines = self._read_lines()
        valid_bytes = sum(len(line) + 1 for line in existing_lines)
        new_entries, new_lines = list[EntryT](), list[bytes]()
        for number, decision in enumerate(decisions, len(existing_lines) + 1):
            previous_line = new_lines[-1] if new_lines else existing_lines[-1] if existing_lines else None
            previous_hash = hashlib.sha256(previous_line).hexdigest() if previous_line is not None else ""
            new_entries.append(
                self.entry_type(
                    number=number, decided_at=datetime.now(UTC), previous_hash=previous_hash, **decision
                )
            )
            new_lines.append(new_entries[-1].model_dump_json().encode())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(valid_bytes)  # removes an incomplete last line
                file.write(b"".join(line + b"\n" for line in new_lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InfrastructureError(f"{self.path} cannot be written: {error.strerror}") from None
        return new_entries

    def _read_lines(self) -> list[bytes]:
        try:
            return read_regular_file(self.path, MAX_LOG_BYTES).split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InfrastructureError(f"{self.path} cannot be read: {error.strerror}") from None
