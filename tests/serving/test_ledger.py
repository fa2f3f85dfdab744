"""Promises of the ledger: append-only, in one piece, and nothing can go missing unnoticed."""

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
    "reasons": ("not to be told apart",),
    "fingerprints": {"data": "ab"},
    "previous_live": None,
    "live": None,
    "rollback_target": None,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger of three lines."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for number in "123":
        ledger.append(**DECISION | {"subject": number})
    return ledger


def candidates(ledger: Ledger) -> list[str]:
    return [entry.subject for entry in ledger.read_entries()]


def test_nothing_is_decided_before_the_first_line(tmp_path: Path):
    """Asking makes no file."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ([], None) == (ledger.read_entries(), ledger.read_last())
    assert [] == list(tmp_path.iterdir())


def test_lines_are_read_as_they_were_written(ledger: Ledger):
    """Oldest first, numbered from one, each naming the one before it."""
    entries = ledger.read_entries()
    assert [1, 2, 3] == [entry.number for entry in entries]
    assert ["1", "2", "3"] == [entry.subject for entry in entries]
    assert entries[-1] == ledger.read_last()
    assert "" == entries[0].previous_hash
    assert len({entry.previous_hash for entry in entries}) == 3
    assert entries[0].model_dump().items() >= (DECISION | {"subject": "1"}).items()


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_cut_short_decided_nothing(ledger: Ledger, cut: int):
    """A process killed while it wrote leaves the beginning of a line: the next one takes its place."""
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    assert ["1", "2"] == candidates(ledger)

    ledger.append(**DECISION | {"subject": "4"})
    assert ["1", "2", "4"] == candidates(ledger)


def test_a_changed_line_is_noticed(ledger: Ledger):
    """The line after it no longer follows."""
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b'"subject":"2"', b'"subject":"9"'))
    with pytest.raises(CorruptDataError, match="line 3 does not follow the line before it"):
        ledger.read_entries()


def test_a_lost_line_is_noticed(ledger: Ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(CorruptDataError, match="line 2 does not follow"):
        ledger.read_last()


@pytest.mark.parametrize("content", [b"{}\n", b"\n", b"nonsense\n", b"\xff\xfe\n"])
def test_what_is_no_line_is_refused(tmp_path: Path, content: bytes):
    """And named by its number."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"ledger\.jsonl, line 1"):
        ledger.read_entries()


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path):
    """The reason comes from the system."""
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(InfrastructureError, match="cannot be read: Is a directory"):
        Ledger(tmp_path / "ledger.jsonl").append(**DECISION)


def test_unknown_fields_are_refused(ledger: Ledger):
    """A ledger of another version of the program is not half understood."""
    line = Entry.model_validate_json(ledger.path.read_bytes().splitlines()[0]).model_dump_json()
    ledger.path.write_text(line[:-1] + ',"more":1}\n')
    with pytest.raises(CorruptDataError, match="line 1"):
        ledger.read_entries()
