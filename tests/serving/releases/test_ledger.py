"""Promises of the ledger: one decision a number, whole entries, and every lost or changed one is detected."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.serving.releases.ledger import Ledger

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
    """A ledger with three entries."""
    ledger = Ledger(tmp_path / "ledger")
    for number in "123":
        ledger.append(ledger.read_last(), **DECISION | {"subject": number})
    return ledger


def subjects(ledger: Ledger) -> list[str]:
    return [entry.subject for entry in ledger.read_entries()]


def test_ledger_is_empty_before_first_decision(tmp_path: Path):
    """Reading creates no folder."""
    ledger = Ledger(tmp_path / "ledger")
    assert ([], None) == (ledger.read_entries(), ledger.read_last())
    assert [] == list(tmp_path.iterdir())


def test_entries_are_read_as_written(ledger: Ledger):
    """Entries come oldest first, numbered from 1, each with the digest of the entry before it."""
    entries = ledger.read_entries()
    assert [1, 2, 3] == [entry.number for entry in entries]
    assert ["1", "2", "3"] == [entry.subject for entry in entries]
    assert entries[-1] == ledger.read_last()
    digests = [hashlib.sha256(ledger.entry_path(number).read_bytes()).hexdigest() for number in (1, 2)]
    assert ["", *digests] == [entry.previous_hash for entry in entries]
    assert entries[0].model_dump().items() >= (DECISION | {"subject": "1"}).items()


def test_whoever_writes_an_entry_has_decided(ledger: Ledger):
    """A second decision after the same entry is not recorded, and leaves no file."""
    before = ledger.read_last()
    assert ledger.append(before, **DECISION | {"subject": "first"})
    content, names = ledger.entry_path(4).read_bytes(), sorted(ledger.folder.iterdir())

    assert ledger.append(before, **DECISION | {"subject": "second"}) is None
    assert (content, names) == (ledger.entry_path(4).read_bytes(), sorted(ledger.folder.iterdir()))


WRITE = """
import sys
from pathlib import Path
from relearn.serving.releases.ledger import Ledger

ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    previous = ledger.read_last()
    entry = ledger.append(previous, actor=sys.argv[2], action="hold", run_id="run",
        subject=str(previous and previous.number), reasons=(), fingerprints={},
        previous_live=None, live=None, rollback_target=None)
    if entry:
        print(entry.number, flush=True)
"""


def test_killed_and_racing_writers_leave_one_chain(tmp_path: Path):
    """Four processes write at once and are killed at random moments: each entry names its predecessor.

    Every entry that a process reported is there and its own.
    """
    ledger, delay = Ledger(tmp_path / "ledger"), random.Random(1)
    command = [sys.executable, "-c", WRITE, str(ledger.folder)]
    writers = [
        subprocess.Popen([*command, name], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout
        assert "ready\n" == writer.stdout.readline()
    for writer in writers:
        time.sleep(delay.uniform(0.02, 0.2))
        writer.send_signal(signal.SIGKILL)
    reported = {
        int(line): name
        for name, writer in zip("abcd", writers, strict=True)
        for line in writer.communicate()[0].splitlines()
    }

    entries = ledger.read_entries()
    assert ["None", *map(str, range(1, len(entries)))] == [entry.subject for entry in entries]
    assert {entry.number: entry.actor for entry in entries}.items() >= reported.items()
    assert len(set(reported.values())) > 1
    assert ledger.append(ledger.read_last(), **DECISION)


def test_interrupted_write_is_no_entry(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """A disk that fails before the entry has its name leaves the ledger as it was."""
    last = ledger.read_last()
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", lambda _: os.fstat(-1))  # fails as a broken disk does
        with pytest.raises(InfrastructureError, match="cannot be written"):
            ledger.append(last, **DECISION)
    (ledger.folder / ".000004.json.0123456789ab.tmp").write_bytes(b"torn")
    assert ["1", "2", "3"] == subjects(ledger)
    assert ledger.append(ledger.read_last(), **DECISION)


def test_changed_entry_is_detected(ledger: Ledger):
    """The digest in the next entry no longer matches."""
    path = ledger.entry_path(2)
    path.write_bytes(path.read_bytes().replace(b'"subject":"2"', b'"subject":"9"'))
    for read in (ledger.read_entries, ledger.read_last):
        with pytest.raises(CorruptDataError, match=r"000003\.json does not follow the entry before it"):
            read()


@pytest.mark.parametrize("number", [1, 2])
def test_lost_entry_is_detected(ledger: Ledger, number: int):
    """It is named, and nothing is written after it."""
    ledger.entry_path(number).unlink()
    for read in (ledger.read_entries, ledger.read_last):
        with pytest.raises(CorruptDataError, match=rf"00000{number}\.json is missing"):
            read()


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b"\xff\xfe"])
def test_invalid_entry_is_rejected_with_its_number(ledger: Ledger, content: bytes):
    ledger.entry_path(2).write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"000002\.json: "):
        ledger.read_entries()


def test_unreadable_ledger_is_reported_in_one_line(tmp_path: Path):
    """The message contains the reason from the operating system."""
    (tmp_path / "ledger").write_bytes(b"")
    with pytest.raises(InfrastructureError, match="cannot be read: Not a directory"):
        Ledger(tmp_path / "ledger").read_last()


@pytest.mark.parametrize("after", [b'"format":2,"more":1', b'"format":3'])
def test_entry_of_another_version_is_rejected(ledger: Ledger, after: bytes):
    """It is not partly read."""
    path = ledger.entry_path(3)
    path.write_bytes(path.read_bytes().replace(b'"format":2', after))
    with pytest.raises(CorruptDataError, match=r"000003\.json: (more|format): "):
        ledger.read_last()


def test_ledger_of_the_older_format_is_refused(tmp_path: Path):
    """Nothing counts as never released because its ledger is a file of lines."""
    (tmp_path / "ledger.jsonl").write_bytes(b"{}\n")
    with pytest.raises(CorruptDataError, match="is a ledger of format 1, accepted: 2; set RELEARN_HOME"):
        Ledger(tmp_path / "ledger").read_last()
