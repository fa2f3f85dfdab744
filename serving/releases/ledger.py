"""The ledger of one model name: one line for each release decision, and the live release after it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from relearn.model.append_log import HashChainedLog, LogEntry

GateOutcome = Literal["promote", "hold", "reject"]  # result of the gate
LedgerAction = Literal[GateOutcome, "rollback", "reference"]


class Release(BaseModel):
    """A published version: its Bento, its training run and its time of publication.

    `sha256` maps the `CHECKSUMMED_FILES` of its folder to their SHA-256; the card contains the SHA-256 of all
    other files. `baseline` is the version from which losses of accuracy add up: the last one that was
    promoted as better, "" if that is this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    bento: str
    run_id: str
    published_at: AwareDatetime
    sha256: dict[str, str]
    baseline: str = ""


class Entry(LogEntry):
    """Decision about a release: actor, action, subject, reasons, and the live release after it.

    `subject` is a version, or the first eight characters of the run id of a candidate that was never
    registered. `previous_live` is the version that was live before the decision, `rollback_target` the
    version that a rollback after it restores. `fingerprints` identify the candidate's training data and the
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
    """The hash-chained log of all release decisions; its last complete line says what is live."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Entry)

    def append(self, **decision: Any) -> Entry:
        """Append a decision: the fields of `Entry` except those of `LogEntry`.

        Returns when the line is on disk. The caller holds the lock of the `ReleaseStore`.
        """
        return self.append_entries(decision)[0]
