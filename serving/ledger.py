"""What was decided about the releases of one name, and what has been live since: a line a decision."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from model.errors import IntegrityError, MachineError

Outcome = Literal["promote", "hold", "reject"]  # of a judgement
Action = Literal[Outcome, "rollback", "reference"]


class Release(BaseModel):
    """What answers: a version, its Bento, the run it comes from, since when.

    `digests` holds the SHA-256 of the files of its folder that no other file there vouches for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    bento: str
    run_id: str
    published_at: AwareDatetime
    digests: dict[str, str]


class Entry(BaseModel):
    """One decision: who made it, when, about which run, why, and what is live after it.

    `candidate` is what was decided about: a version, or the first eight characters of the run of one that
    was never registered. `before` is the version that was live, `previous` the one that a rollback would
    bring back after this. `fingerprints` are those of the data: what the candidate learned from and the
    reference set. `chain` is the SHA-256 of the line before, so that no line can go missing unnoticed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    at: AwareDatetime
    actor: str
    action: Action
    candidate: str
    run_id: str
    reasons: tuple[str, ...]
    fingerprints: dict[str, str]
    before: str | None
    live: Release | None
    previous: str | None
    chain: str


class Ledger:
    """An append-only file; its last whole line is the truth."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """All decisions, oldest first; raises `IntegrityError` where the file is not what was written.

        A last line without its end is of a process that was killed while writing it: it decided nothing.
        """
        entries: list[Entry] = []
        chain = ""
        for number, line in enumerate(self._lines(), 1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                raise IntegrityError(f"{self.path}, line {number}: {str(error).splitlines()[0]}") from None
            if (entry.number, entry.chain) != (number, chain):
                raise IntegrityError(
                    f"{self.path}, line {number} does not follow the line before it: one was changed or lost"
                )
            chain = hashlib.sha256(line).hexdigest()
            entries.append(entry)
        return entries

    def last(self) -> Entry | None:
        """The newest decision; None before the first."""
        return next(reversed(self.entries()), None)

    def append(self, **decision: Any) -> Entry:
        """Add a decision: the fields of an `Entry` but number, time and chain.

        Returns when it is on disk. The caller holds the lock of the releases.
        """
        lines = self._lines()
        chain = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
        entry = Entry(number=len(lines) + 1, at=datetime.now(UTC), chain=chain, **decision)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(sum(len(line) + 1 for line in lines))  # the beginning of a line ends here
                file.write(entry.model_dump_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MachineError(f"{self.path} cannot be written: {error.strerror}") from None
        return entry

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise MachineError(f"{self.path} cannot be read: {error.strerror}") from None
