"""Promises of the ledger: append-only, atomic lines, and every lost or changed line is detected."""

from pathlib import Path
from typing import Any

import pytest

from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.serving.releases.ledger import Entry, Ledger

DECISION: dict[str, Any] = {
    "actor": "ada@here",
    "action": "hold",
    "subject": "run 12345678",
    "run_id": "12345678",
    "reasons": ("no significant difference",),
    "fingerprints": {"data": "ab"},
    "previous_live": None,
    "live": None,
    "rollback_target": None,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger with three lines."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in "123":
        ledger.append(**DECISION | {"subject": number})
    return ledger


def subjects(ledger: Ledger) -> list[str]:
    return [entry.subject for entry in ledger.read_entries()]


def test_ledger_is_empty_before_first_decision(tmp_path: Path):
    """Reading creates no file."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ([], None) == (ledger.read_entries(), ledger.read_last())
    assert [] == list(tmp_path.iterdir())


def test_entries_are_read_as_written(ledger: Ledger):
    """Entries come oldest first, numbered from 1, each with the hash of the line before it."""
    entries = ledger.read_entries()
    assert [1, 2, 3] == [entry.number for entry in entries]
    assert ["1", "2", "3"] == [entry.subject for entry in entries]
    assert entries[-1] == ledger.read_last()
    assert "" == entries[0].previous_hash
    assert len({entry.previous_hash for entry in entries}) == 3
    assert entries[0].model_dump().items() >= (DECISION | {"subject": "1"}).items()


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_truncated_line_is_ignored_and_overwritten(ledger: Ledger, cut: int):
    """A process killed while writing leaves an incomplete line; the next entry replaces it."""
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    assert ["1", "2"] == subjects(ledger)

    ledger.append(**DECISION | {"subject": "4"})
    assert ["1", "2", "4"] == subjects(ledger)


def test_changed_line_is_detected(ledger: Ledger):
    """The hash in the next line no longer matches."""
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b'"subject":"2"', b'"subject":"9"'))
    with pytest.raises(CorruptDataError, match="line 3 does not follow the line before it"):
        ledger.read_entries()


def test_lost_line_is_detected(ledger: Ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(CorruptDataError, match="line 2 does not follow"):
        ledger.read_last()


@pytest.mark.parametrize("content", [b"{}\n", b"\n", b"nonsense\n", b"\xff\xfe\n"])
def test_invalid_line_is_rejected_with_its_number(tmp_path: Path, content: bytes):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"ledger\.jsonl, line 1"):
        ledger.read_entries()


def test_unreadable_ledger_is_reported_in_one_line(tmp_path: Path):
    """The message contains the reason from the operating system."""
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(InfrastructureError, match="cannot be read: Is a directory"):
        Ledger(tmp_path / "ledger.jsonl").append(**DECISION)


def test_unknown_fields_are_rejected(ledger: Ledger):
    """A ledger of another program version is not partly read."""
    line = Entry.model_validate_json(ledger.path.read_bytes().splitlines()[0]).model_dump_json()
    ledger.path.write_text(line[:-1] + ',"more":1}\n')
    with pytest.raises(CorruptDataError, match="line 1"):
        ledger.read_entries()
