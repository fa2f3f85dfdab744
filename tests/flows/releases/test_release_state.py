"""Release state and rollback: the ledger decides, aliases follow."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.releases.release_state import ReleaseState, record_decision, sync_with_ledger
from relearn.flows.releases.rollback import roll_back
from relearn.flows.tracking.store import connect
from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.zoo import Zoo


def test_aliases_follow_the_ledger(zoo: Zoo) -> None:
    """Champion and previous follow after every decision; correct aliases are not reported."""
    zoo.promote("1")
    assert ["@champion of zoo pointed to no version, the ledger says 1"] == sync_with_ledger(zoo.home, "zoo")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")

    assert {"champion": "2", "previous": "1"} == zoo.aliases()
    assert [] == sync_with_ledger(zoo.home, "zoo")


def test_alias_moved_by_hand_is_reported_and_reset(zoo: Zoo) -> None:
    """Other aliases stay as they are."""
    zoo.promote("1")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")
    client = connect(zoo.home)
    client.set_registered_model_alias("zoo", "champion", "3")
    client.delete_registered_model_alias("zoo", "previous")
    client.set_registered_model_alias("zoo", "mine", "3")

    assert [
        "@champion of zoo pointed to 3, the ledger says 2",
        "@previous of zoo pointed to no version, the ledger says 1",
    ] == sync_with_ledger(zoo.home, "zoo")
    assert {"champion": "2", "previous": "1", "mine": "3"} == zoo.aliases()


def test_version_deleted_by_hand_is_reported(zoo: Zoo) -> None:
    """The live version stays live, and one message names the missing version."""
    zoo.promote("1")
    connect(zoo.home).delete_model_version("zoo", "1")

    (message,) = sync_with_ledger(zoo.home, "zoo")
    assert "@champion of zoo cannot point to version 1: it is gone from MLflow" == message
    assert "1" == zoo.releases.read_live().version


def test_decision_on_an_outdated_state_is_not_recorded(zoo: Zoo) -> None:
    """The ledger stays as it is."""
    outdated = ReleaseState.from_store(zoo.releases)
    zoo.promote("1")
    decision = {"action": "hold", "subject": "x", "run_id": "x", "reasons": (), "fingerprints": {}}

    assert record_decision(zoo.home, "zoo", outdated, **decision, live=None, rollback_target=None) is None
    assert 1 == len(zoo.releases.ledger.read_entries())


def test_rollback_makes_the_previous_version_live(zoo: Zoo) -> None:
    """Its ledger entry has user and reason, and its release is live."""
    zoo.promote("1")
    zoo.promote("2")
    entry = roll_back(zoo.home, "zoo", None, "too many sevens")

    assert ("rollback", "2", "1", None) == (
        entry.action,
        entry.previous_live,
        entry.live.version,
        entry.rollback_target,
    )
    assert (("too many sevens",), "1") == (entry.reasons, zoo.releases.read_live().version)
    assert re.fullmatch(r".+@.+", entry.actor)
    assert {"data": "d", "reference": "r"} == entry.fingerprints
    assert "1" == load_release(zoo.releases, entry.live).version


def test_rollback_to_any_version_that_was_live(zoo: Zoo) -> None:
    """The next rollback target is the version that was live before it."""
    for version in "123":
        zoo.promote(version)
    assert "1" == roll_back(zoo.home, "zoo", "1", "way back").live.version
    entry = roll_back(zoo.home, "zoo", "3", "after all")
    assert ("3", "2") == (entry.live.version, entry.rollback_target)
    assert "2" == roll_back(zoo.home, "zoo", None, "no").live.version


def test_invalid_rollback_is_rejected(zoo: Zoo) -> None:
    """The target is live, was never live or does not exist: each message lists what is accepted."""
    with pytest.raises(NotFoundError, match="nothing is live"):
        roll_back(zoo.home, "zoo", None, "why not")
    zoo.promote("1")
    with pytest.raises(NotFoundError, match="no version was live before 1; accepted for --to: none"):
        roll_back(zoo.home, "zoo", None, "why not")
    zoo.promote("2")
    with pytest.raises(UserInputError, match="version 2 is live already; accepted: 1"):
        roll_back(zoo.home, "zoo", "2", "why not")
    with pytest.raises(NotFoundError, match="got '3', which was never live; accepted: 1"):
        roll_back(zoo.home, "zoo", "3", "why not")


@pytest.mark.parametrize("file", ["weights.safetensors", "card.json", "golden.safetensors"])
def test_rollback_to_a_damaged_version_is_rejected(zoo: Zoo, file: str) -> None:
    """The live version stays live."""
    zoo.promote("1")
    zoo.promote("2")
    path = zoo.releases.version_folder("1") / file
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(CorruptDataError):
        roll_back(zoo.home, "zoo", None, "why not")
    assert ("2", 2) == (zoo.releases.read_live().version, len(zoo.releases.ledger.read_entries()))


def test_rollback_command_reports_its_effect(zoo: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints both versions and that no server runs; aliases follow, and `history` has the reason."""
    zoo.promote("1")
    zoo.promote("2")
    assert 0 == run_command_line(["rollback", "--reason", "too many\n sevens"])
    printed = capsys.readouterr().out
    assert "zoo: version 1 is live again, version 2 no longer" in printed
    assert "no server of zoo runs on this machine" in printed
    assert {"champion": "1"} == zoo.aliases()

    assert 0 == run_command_line(["history"])
    assert "too many sevens" in capsys.readouterr().out
    assert 0 == run_command_line(["history", "--json"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["promote", "promote", "rollback"] == [line["action"] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["rollback", "--reason", " "], 2, "--reason: got nothing"),
        (["rollback", "--reason", "x", "--to", "9"], 2, "got '9', which was never live; accepted: none"),
        (
            ["rollback", "--reason", "x", "--model-name", "nope"],
            2,
            "nothing released as 'nope'; released: zoo",
        ),
        (["history", "--model-name", "nope"], 2, "nothing released as 'nope'"),
        (["reference", "--dataset", "digits", "--reason", "x"], 2, "--dataset: its classes are 0, 1, 2"),
        (["release", "nope"], 2, "no run 'nope' in MLflow"),
        (["release", "animal 2", "--recall-margin", "2"], 2, "--recall-margin: got '2'"),
        (["release", "animal 2", "--manual-approval"], 2, "--manual-approval: got no Prefect server"),
    ],
)
def test_invalid_input_is_rejected_in_one_line(
    zoo: Zoo, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, message: str
) -> None:
    """It names what was wrong, got and accepted; the ledger stays as it is."""
    zoo.promote("1")
    assert exit_code == run_command_line(arguments)
    errors = capsys.readouterr().err
    assert message in errors
    assert 1 == len(errors.splitlines())
    assert 1 == len(zoo.releases.ledger.read_entries())


def test_new_reference_set_is_recorded_in_the_ledger(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes from another dataset with the same classes; the live version stays live."""
    zoo.promote("1")
    images = np.random.default_rng(0).integers(0, 256, (90, 12, 12), dtype=np.uint8)
    labels = np.array(["ant", "bee", "cow"])[np.arange(90) % 3]
    np.savez(tmp_path / "more.npz", images=images, labels=labels)

    command = ["reference", "--dataset", f"npz:{tmp_path / 'more.npz'}", "--reason", "a larger test"]
    assert 0 == run_command_line(command), capsys.readouterr().err
    last = zoo.releases.ledger.read_last()
    assert ("reference", "1", ("a larger test",)) == (last.action, last.live.version, last.reasons)
    assert (
        last.fingerprints["reference"] == ReleaseState.from_store(zoo.releases).reference_fingerprint != "r"
    )
    assert last.subject in capsys.readouterr().out
