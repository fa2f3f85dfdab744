"""What was decided about the releases of one name, and what has been live since: a line a decision."""

from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from relearn.model.append_log import HashChainedLog, LogEntry

GateOutcome = Literal["promote", "hold", "reject"]  # of a judgement
LedgerAction = Literal[GateOutcome, "rollback", "reference"]


class Release(BaseModel):
    """What answers: a version, its Bento, the run it comes from, since when.

    `digests` holds the SHA-256 of the files of its folder that no other file there vouches for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    bento: str
    run_id: str
    published_at: AwareDatetime
    sha256: dict[str, str]


class Entry(LogEntry):
    """One decision: who made it, when, about which run, why, and what is live after it.

    `candidate` is what was decided about: a version, or the first eight characters of the run of one that
    was never registered. `before` is the version that was live, `previous` the one that a rollback would
    bring back after this. `fingerprints` are those of the data: what the candidate learned from and the
    reference set.
    """

    actor: str
    action: LedgerAction
    subject: str
    run_id: str
    reasons: tuple[str, ...]
    fingerprints: dict[str, str]
    previous_live: str | None
    live: Release | None
    rollback_target: str | None


class Ledger(HashChainedLog[Entry]):
    """An append-only file; its last whole line is the truth."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Entry)

    def append(self, **decision: Any) -> Entry:
        """Add a decision: the fields of an `Entry` but number, time and chain.

        Returns when it is on disk. The caller holds the lock of the releases.
        """
        return self.append_entries(decision)[0]
