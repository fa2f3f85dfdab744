"""Release state and rollback: the ledger decides, aliases follow."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.checks.check import CheckResult
from relearn.flows.ops.doctor import run_check
from relearn.flows.releases.release_state import (
    ReleaseState,
    count_candidates,
    map_versions,
    record_decision,
    sync_with_ledger,
)
from relearn.flows.releases.rollback import roll_back
from relearn.flows.tracking import registry
from relearn.flows.tracking.store import connect
from relearn.model.errors import CorruptDataError, NotFoundError, UserInputError
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.zoo import Zoo


@pytest.fixture
def live(zoo: Zoo) -> Zoo:
    """Version 2 is live, version 1 is the rollback target, and the aliases agree."""
    zoo.promote("1")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")
    return zoo


def check_aliases(zoo: Zoo) -> CheckResult:
    (result,) = run_check(zoo.home, "mlflow", "aliases")
    return result


def test_aliases_follow_the_ledger(zoo: Zoo) -> None:
    """Champion and previous follow after every decision; correct aliases are not reported."""
    zoo.promote("1")
    assert [
        f"@champion of zoo pointed to no version, the ledger says {zoo.version('1')}"
    ] == sync_with_ledger(zoo.home, "zoo")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")

    assert {"champion": "2", "previous": "1"} == zoo.aliases()
    assert [] == sync_with_ledger(zoo.home, "zoo")


def test_alias_moved_by_hand_is_reported_and_reset(live: Zoo) -> None:
    """Other aliases stay as they are."""
    client = connect(live.home)
    client.set_registered_model_alias("zoo", "champion", "3")
    client.delete_registered_model_alias("zoo", "previous")
    client.set_registered_model_alias("zoo", "mine", "3")

    assert [
        f"@champion of zoo pointed to {live.version('3')}, the ledger says {live.version('2')}",
        f"@previous of zoo pointed to no version, the ledger says {live.version('1')}",
    ] == sync_with_ledger(live.home, "zoo")
    assert {"champion": "2", "previous": "1", "mine": "3"} == live.aliases()


def delete_model(zoo: Zoo) -> None:
    connect(zoo.home).delete_registered_model("zoo")


def rename_model(zoo: Zoo) -> None:
    connect(zoo.home).rename_registered_model("zoo", "zoo of 2025")


def delete_version(zoo: Zoo) -> None:
    connect(zoo.home).delete_model_version("zoo", "2")


def register_others(zoo: Zoo) -> None:
    """Start the numbers anew, with other runs: MLflow's version 2 is the run of version 1."""
    client = connect(zoo.home)
    client.delete_registered_model("zoo")
    for version in ("3", "1", "3"):
        registry.register(client, zoo.run_ids[version], "zoo", {})
    client.set_registered_model_alias("zoo", "champion", "2")


@pytest.mark.parametrize("change", [delete_model, rename_model, delete_version, register_others])
def test_champion_is_the_served_run_whatever_happens_in_mlflow(
    live: Zoo, change: Callable[[Zoo], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor and status say how they differ; the printed fix, and the next release, make them agree."""
    assert "ok" == check_aliases(live).state
    change(live)
    result = check_aliases(live)
    assert "warning" == result.state
    assert f"the ledger says {live.version('2')}" in result.message
    assert 0 == run_command_line(["status"])
    output = capsys.readouterr().out
    assert (True, True) == (f"the ledger says {live.version('2')};" in output, "see relearn doctor" in output)

    assert f"relearn release {live.run_ids['2'][:8]} corrects this, and changes nothing else" == result.fix
    messages = sync_with_ledger(live.home, "zoo")  # what that command begins with
    assert any(f"the ledger says {live.version('2')}" in message for message in messages)
    assert "ok" == check_aliases(live).state
    client = connect(live.home)
    for alias, version in (("champion", "2"), ("previous", "1")):
        assert live.run_ids[version] == client.get_model_version_by_alias("zoo", alias).run_id

    released = map_versions(live.releases)
    number = registry.register(client, live.run_ids["3"], "zoo", released)
    assert int(number) > 2
    live.folders[number] = live.folders["3"]
    assert number == live.promote(number).live.version
    assert 3 == len(live.releases.ledger.read_entries())


def test_number_of_an_undecided_candidate_is_not_used_again(live: Zoo) -> None:
    """Its release was killed before the decision, then the registered model was deleted."""
    live.releases.add_version("3", live.folders["3"])
    delete_model(live)
    client, released = connect(live.home), map_versions(live.releases)
    assert "" == released["3"]
    assert "4" == registry.register(client, live.run_ids["3"], "zoo", released)


def test_live_run_that_was_deleted_is_reported(live: Zoo) -> None:
    """The live version stays live, and one message says why the alias is not set."""
    client = connect(live.home)
    model_id = registry.get_logged_model_id(client, live.run_ids["2"])
    client.delete_logged_model(model_id)
    delete_model(live)

    messages = sync_with_ledger(live.home, "zoo")
    message = f"@champion of zoo cannot point to version {live.version('2')}: its run is gone from MLflow"
    assert message in messages
    assert "nothing has to be done: the next release sets the aliases again" == check_aliases(live).fix
    assert "2" == live.releases.read_live().version
    assert {"previous": "1"} == live.aliases()


def test_decision_on_an_outdated_state_is_not_recorded(zoo: Zoo) -> None:
    """The ledger stays as it is."""
    outdated = ReleaseState.from_store(zoo.releases)
    zoo.promote("1")
    decision = {"action": "hold", "subject": "x", "run_id": "x", "reasons": (), "fingerprints": {}}

    assert record_decision(zoo.home, "zoo", outdated, **decision, live=None, rollback_target=None) is None
    assert 1 == len(zoo.releases.ledger.read_entries())


def test_candidates_count_since_the_baseline(zoo: Zoo) -> None:
    """Each run counts once, one promoted without a gain as tested; a new baseline starts the count again."""
    zoo.promote("1")
    for run_id in ("a", "b", "a"):
        zoo.hold(run_id)
    assert (2, 2) == count_candidates(zoo.releases, "c")
    assert (1, 1) == count_candidates(zoo.releases, "b")
    zoo.promote("2", baseline="1")
    zoo.hold("c")
    assert (4, 3) == count_candidates(zoo.releases, "d")
    roll_back(zoo.home, "zoo", None, "why not")
    assert (0, 0) == count_candidates(zoo.releases, "d")
    zoo.hold("e")
    zoo.promote("3")
    assert (0, 0) == count_candidates(zoo.releases, "d")


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
    """It prints both versions and the next command; aliases follow, and `history` has the reason."""
    zoo.promote("1")
    zoo.promote("2")
    assert 0 == run_command_line(["rollback", "--reason", "too many\n sevens"])
    printed = capsys.readouterr().out
    assert "zoo: version 1 is live again, version 2 no longer" in printed
    assert printed.endswith("/relearn history --model-name zoo\n")
    assert {"champion": "1"} == zoo.aliases()

    assert 0 == run_command_line(["history"])
    assert "too many sevens" in capsys.readouterr().out
    assert 0 == run_command_line(["history", "--json"])
    entries = json.loads(capsys.readouterr().out)
    assert ["promote", "promote", "rollback"] == [entry["action"] for entry in entries]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["rollback", "--reason", " "], 2, "--reason: got nothing"),
        (["release"], 2, "run: got none, accepted: RUN, or --reference DATASET --reason TEXT"),
        (["release", "animal 2", "--reason", "x"], 2, "run: got --reason without --reference"),
        (["release", "animal 2", "--reference", "digits"], 2, "--reference: got RUN as well"),
        (["release", "--reference", "digits"], 2, "--reason: got nothing"),
        (["rollback", "--reason", "x", "--to", "9"], 2, "got '9', which was never live; accepted: none"),
        (
            ["rollback", "--reason", "x", "--model-name", "nope"],
            2,
            "nothing released as 'nope'; released: zoo",
        ),
        (["history", "--model-name", "nope"], 2, "nothing released as 'nope'"),
        (["release", "--reference", "digits", "--reason", "x"], 2, "--reference: its classes are 0, 1, 2"),
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
    """It comes from another dataset with the same classes; the live version stays, no loss is accepted."""
    zoo.promote("3")
    zoo.promote("1", baseline="3")
    images = np.random.default_rng(0).integers(0, 256, (90, 12, 12), dtype=np.uint8)
    labels = np.array(["ant", "bee", "cow"])[np.arange(90) % 3]
    np.savez(tmp_path / "more.npz", images=images, labels=labels)

    command = ["release", "--reference", f"npz:{tmp_path / 'more.npz'}", "--reason", "a larger test"]
    assert 0 == run_command_line(command), capsys.readouterr().err
    last = zoo.releases.ledger.read_last()
    assert ("reference", "1", ("a larger test",)) == (last.action, last.live.version, last.reasons)
    assert ("3", 0) == (last.live.baseline, last.live.margin)
    assert (
        last.fingerprints["reference"] == ReleaseState.from_store(zoo.releases).reference_fingerprint != "r"
    )
    assert last.subject in capsys.readouterr().out
