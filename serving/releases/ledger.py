"""The ledger of one model name: an entry for each release decision, with the live release after it."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from relearn.model.append_log import LogEntry
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.files import create_file, read_regular_file

FORMAT: Final = 2  # of the ledger: numbered files instead of lines
GOLDEN_FILE = "golden.safetensors"  # in the folder of a version
CHECKSUMMED_FILES = ("card.json", GOLDEN_FILE)  # the card holds the checksums of the other files
MAX_ENTRY_BYTES = 2**20  # 1 MB; an entry has about 1 kB

GateOutcome = Literal["promote", "hold", "reject"]  # result of the gate
LedgerAction = Literal[GateOutcome, "rollback", "reference"]


class Release(BaseModel):
    """A published version: its Bento, its training run and its time of publication.

    `sha256` maps the `CHECKSUMMED_FILES` of its folder to their SHA-256; the card contains the SHA-256 of all
    other files. `baseline` is the version from which losses of accuracy add up: the last one that was
    promoted as better, "" if that is this one. `margin` is the loss since then that was accepted, in the unit
    of the promotion metric; 0 without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    bento: str
    run_id: str
    published_at: AwareDatetime
    sha256: dict[str, str]
    baseline: str = ""
    margin: float = 0.0


class Entry(LogEntry):
    """Decision about a release: actor, action, subject, reasons, and the live release after it.

    `subject` is a version, or the first eight characters of the run id of a candidate that was never
    registered. `previous_live` is the version that was live before the decision, `rollback_target` the
    version that a rollback after it restores. `fingerprints` identify the candidate's training data and the
    reference set.
    """

    format: Literal[2] = FORMAT
    actor: str
    action: LedgerAction
    subject: str
    run_id: str
    reasons: tuple[str, ...]
    fingerprints: dict[str, str]
    previous_live: str | None
    live: Release | None
    rollback_target: str | None


class Ledger:
    """The numbered entries in `folder`: entry 17 is the file `000017.json`, which is never changed.

    An entry is created only if its number is free, so whoever writes entry 17 has decided, without a lock.
    Each holds the SHA-256 of the entry before it, which reveals changed and lost entries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entry_path(self, number: int) -> Path:
        """Return the path of an entry; it need not exist."""
        return self.folder / f"{number:06d}.json"

    def count_entries(self) -> int:
        """Return the number of the last entry, 0 before the first one.

        Raises `CorruptDataError` if an entry is missing or the ledger has an older format,
        `InfrastructureError` if the folder cannot be read.
        """
        if (old_file := self.folder.with_suffix(".jsonl")).exists():
            raise CorruptDataError(
                f"{old_file} is a ledger of format 1, accepted: {FORMAT}; set RELEARN_HOME to a new "
                "folder and release there again"
            )
        try:
            names = [path.name for path in self.folder.iterdir()]
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise InfrastructureError(f"{self.folder} cannot be read: {error.strerror}") from None
        numbers = {int(name[:-5]) for name in names if re.fullmatch(r"[0-9]{6,}\.json", name)}
        last_number = max(numbers, default=0)
        for number in sorted({*range(1, last_number)} - numbers):
            if not self.entry_path(number).exists():  # a listing may miss what is created meanwhile
                raise CorruptDataError(f"{self.entry_path(number)} is missing: an entry was lost")
        return last_number

    def read_entry(self, number: int) -> Entry:
        """Return entry `number`, from 1; raise `CorruptDataError` unless it follows the entry before it."""
        content = self._read_bytes(number)
        try:
            entry = Entry.model_validate_json(content)
        except ValidationError as error:
            (first, *_) = error.errors()
            place = ".".join(map(str, first["loc"])) or "content"
            raise CorruptDataError(f"{self.entry_path(number)}: {place}: {first['msg']}") from None
        if (entry.number, entry.previous_hash) != (number, self._hash_entry(number - 1)):
            raise CorruptDataError(
                f"{self.entry_path(number)} does not follow the entry before it: one was changed or lost"
            )
        return entry

    def read_entries(self) -> list[Entry]:
        """Return all entries, oldest first; raise `CorruptDataError` if one was changed or is missing."""
        return [self.read_entry(number) for number in range(1, self.count_entries() + 1)]

    def read_last(self) -> Entry | None:
        """Return the newest entry, None before the first one."""
        return self.read_entry(number) if (number := self.count_entries()) else None

    def append(self, previous: Entry | None, **decision: Any) -> Entry | None:
        """Write the entry after `previous`, once; return None if another process has written it.

        `decision` has the fields of `Entry` except those of `LogEntry`. Returns when the entry is on disk.
        """
        number = previous.number + 1 if previous else 1
        entry = Entry(
            number=number,
            decided_at=datetime.now(UTC),
            previous_hash=self._hash_entry(number - 1),
            **decision,
        )
        path = self.entry_path(number)
        try:
            return entry if create_file(path, entry.model_dump_json().encode()) else None
        except OSError as error:
            raise InfrastructureError(f"{path} cannot be written: {error.strerror}") from None

    def _hash_entry(self, number: int) -> str:
        return hashlib.sha256(self._read_bytes(number)).hexdigest() if number else ""

    def _read_bytes(self, number: int) -> bytes:
        path = self.entry_path(number)
        try:
            return read_regular_file(path, MAX_ENTRY_BYTES)
        except OSError as error:
            raise InfrastructureError(f"{path} cannot be read: {error.strerror}") from None
