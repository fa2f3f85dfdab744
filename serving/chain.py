"""An append-only file of decisions: a line each, none of which can go missing unnoticed."""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from relearn.model.errors import IntegrityError, MachineError


class Link(BaseModel):
    """What every line has: its number from 1, when it was written, and the SHA-256 of the line before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    at: AwareDatetime
    chain: str


Kind = TypeVar("Kind", bound=Link)


class Chain(Generic[Kind]):
    """The lines of one `kind` in the file at `path`; the last whole one is the truth."""

    def __init__(self, path: Path, kind: type[Kind]) -> None:
        self.path, self.kind = path, kind

    def entries(self) -> list[Kind]:
        """All decisions, oldest first; raises `IntegrityError` where the file is not what was written.

        A last line without its end is of a process that was killed while writing it: it decided nothing.
        """
        entries: list[Kind] = []
        chain = ""
        for number, line in enumerate(self._lines(), 1):
            try:
                entry = self.kind.model_validate_json(line)
            except ValidationError as error:
                raise IntegrityError(f"{self.path}, line {number}: {str(error).splitlines()[0]}") from None
            if (entry.number, entry.chain) != (number, chain):
                raise IntegrityError(
                    f"{self.path}, line {number} does not follow the line before it: one was changed or lost"
                )
            chain = hashlib.sha256(line).hexdigest()
            entries.append(entry)
        return entries

    def last(self) -> Kind | None:
        """The newest decision; None before the first."""
        return next(reversed(self.entries()), None)

    def extend(self, *decisions: Mapping[str, Any]) -> list[Kind]:
        """Add decisions: the fields of the kind but number, time and chain.

        Returns when they are on disk; of several, a kill leaves the first ones or all. The caller holds a
        lock.
        """
        lines = self._lines()
        length = sum(len(line) + 1 for line in lines)
        added, written = list[Kind](), list[bytes]()
        for number, decision in enumerate(decisions, len(lines) + 1):
            before = written[-1] if written else lines[-1] if lines else None
            chain = hashlib.sha256(before).hexdigest() if before is not None else ""
            added.append(self.kind(number=number, at=datetime.now(UTC), chain=chain, **decision))
            written.append(added[-1].model_dump_json().encode())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(length)  # the beginning of a line ends here
                file.write(b"".join(line + b"\n" for line in written))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MachineError(f"{self.path} cannot be written: {error.strerror}") from None
        return added

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise MachineError(f"{self.path} cannot be read: {error.strerror}") from None
