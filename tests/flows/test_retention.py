"""Promises of `relearn prune`: the newest stay, and whatever something still needs; the rest goes whole."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from filelock import FileLock

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.prune import find_prunable
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.flows.releases.rollback import roll_back
from relearn.flows.tracking import artifacts, registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.errors import NotFoundError
from relearn.model.home import Home
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.deployment.packaging import bento_store_paths, build_bento, find_bento_folder
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.zoo import Zoo

RELEARN = str(Path(sys.executable).with_name("relearn"))


@pytest.fixture(scope="session")
def one_full_zoo(one_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Versions 1, 2 and 3 were live one after the other, and each has its Bento; to be copied."""
    zoo = one_zoo.copy(tmp_path_factory.mktemp("full") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        for version, folder in zoo.folders.items():
            build_bento(folder, "zoo", version, zoo.home)
            zoo.promote(version)
    sync_with_ledger(zoo.home, "zoo")
    return zoo


@pytest.fixture
def full(one_full_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A copy for this test alone."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return one_full_zoo.copy(tmp_path / "home")


def everything(home: Home) -> set[tuple[str, int]]:
    """All files of a home but MLflow's database and locks, with their sizes."""
    files = (path for path in home.root.rglob("*") if path.is_file() and "lock" not in path.name)
    return {(str(path), path.stat().st_size) for path in files if path.name != "mlflow.db"}


def there(zoo: Zoo, version: str) -> dict[str, bool]:
    """Where there is something of `version`."""
    bento, stored = (store / version for store in bento_store_paths("zoo", zoo.home))
    return {
        "served folder": zoo.releases.version_folder(version).is_dir(),
        "Bento": bento.is_dir(),
        "its model": stored.is_dir(),
        "registered": version in registry.list_versions(connect(zoo.home), "zoo"),
    }


def named(zoo: Zoo, keep: int = 1) -> list[str]:
    return [one.name for one in find_prunable(zoo.home, keep) if one.kind == "version"]


def test_what_nobody_needs_goes_everywhere(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """Served folder, Bento, model, registration, files of the run; the rest answers as before."""
    run_id = registry.list_versions(connect(full.home), "zoo")["1"]
    before = sum(size for _, size in everything(full.home))
    assert 0 == run_command_line(["prune", "--keep", "1"])

    assert {False} == set(there(full, "1").values())
    assert {True} == {*there(full, "2").values(), *there(full, "3").values()}
    client = connect(full.home)
    (old,) = [family for family in artifacts.list_run_trees(client, "zoo") if run_id in family.run_ids]
    assert [0, 0] == [
        artifacts.measure_bytes(uri) for uri in artifacts.list_artifact_uris(client, old.runs[0])
    ]
    freed = int(capsys.readouterr().out.splitlines()[-1].split()[0].replace(",", ""))
    assert before - sum(size for _, size in everything(full.home)) == freed > 0
    for version in "23":
        release = next(e.live for e in full.releases.ledger.read_entries() if e.live.version == version)
        assert version == load_release(full.releases, release).version
    assert [] == find_prunable(full.home, 1)


def test_what_is_gone_is_told_in_one_line(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """By a rollback to it, and by a release or an evaluation of its run; the history still has it."""
    run_id = registry.list_versions(connect(full.home), "zoo")["1"]
    run_command_line(["prune", "--keep", "1"])
    capsys.readouterr()

    assert 2 == run_command_line(["rollback", "--to", "1", "--reason", "back"])
    assert "version 1 is no longer kept; accepted: 2" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="is no longer kept: it was pruned"):
        registry.download_classifier(connect(full.home), run_id, full.home.root / "elsewhere")
    assert ["1", "2", "3"] == [entry.subject for entry in full.releases.ledger.read_entries()]


def test_looking_changes_nothing(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` tells the same bytes, and every file is still there."""
    before = everything(full.home)
    assert 0 == run_command_line(["prune", "--keep", "1", "--dry-run"])
    told = capsys.readouterr().out
    assert before == everything(full.home)
    assert "zoo 1" in told
    assert " would be freed" in told

    run_command_line(["prune", "--keep", "1"])
    assert told.splitlines()[-1].split()[0] == capsys.readouterr().out.splitlines()[-1].split()[0]


def pinned(zoo: Zoo) -> None:
    connect(zoo.home).set_registered_model_alias("zoo", "for-the-audit", "1")


def live_again(zoo: Zoo) -> None:
    roll_back(zoo.home, "zoo", "1", "way back")


def one_before(zoo: Zoo) -> None:
    roll_back(zoo.home, "zoo", "2", "back")


def being_served(zoo: Zoo) -> None:
    """A server that cannot be asked just now, started from the Bento of version 1."""
    folder = zoo.home.root / "servers" / "1"
    RunningServer.from_process(
        os.getpid(), "http://127.0.0.1:1", 1, "zoo:1", "zoo", folder / "workers"
    ).write(folder)


@pytest.mark.parametrize("need", [pinned, live_again, one_before, being_served])
def test_what_is_needed_stays(full: Zoo, need: Callable[[Zoo], object]) -> None:
    """Live, previous, served, or with an alias in MLflow: never removed, however old."""
    assert ["zoo 1"] == named(full)
    need(full)
    assert [] == named(full)


def test_what_becomes_needed_meanwhile_stays(full: Zoo) -> None:
    """Between looking and removing somebody went back to it."""
    (old,) = [one for one in find_prunable(full.home, 1) if one.kind == "version"]
    live_again(full)
    old.delete()
    assert {True} == set(there(full, "1").values())


def test_what_is_under_way_stays(zoo: Zoo) -> None:
    """A version that nothing was decided about yet, a run that goes on, a training that is gone on with."""
    zoo.promote("1")
    assert [] == named(zoo)

    experiment = Experiment.open_or_create(zoo.home, "zoo")
    runs = []
    for number in range(3):
        with experiment.start_run(f"cut off {number}", {"relearn.job_type": "train"}) as run:
            runs.append(run.id)
            (zoo.home.checkpoints / run.id).mkdir(parents=True)
            (zoo.home.checkpoints / run.id / "left").write_bytes(b"much")
    with FileLock(zoo.home.checkpoints / runs[0] / ".lock"):
        for one in find_prunable(zoo.home, 1):
            one.delete()
    left = [number for number, run_id in enumerate(runs) if (zoo.home.checkpoints / run_id).is_dir()]
    assert [0, 2] == left


def test_runs_of_others_are_left_alone(zoo: Zoo) -> None:
    """MLflow may be shared: experiments that are none of ours, and versions that others registered."""
    client = connect(zoo.home)
    other = client.create_experiment("forecast", artifact_location=zoo.home.artifacts.as_uri())
    for number in range(3):
        with mlflow.start_run(experiment_id=other, run_name=f"forecast {number}"):
            mlflow.log_text("rain", "tomorrow.txt")
    assert not [one for one in find_prunable(zoo.home, 1) if "forecast" in one.name]
    assert [] == named(zoo), "nothing of zoo was ever released in this home"


def test_prepared_data_of_earlier_feedback_goes_after_a_day(full: Zoo) -> None:
    """The newest stays, and so does the dataset without any."""
    plain = "digits-0123456789abcdef"
    places = [
        full.home.dataset_cache / name for name in (plain, f"{plain}-{'a' * 16}", f"{plain}-{'b' * 16}")
    ]
    for age, place in enumerate(places):
        place.mkdir(parents=True)
        os.utime(place, (age, age))
    (found,) = [one for one in find_prunable(full.home, 1) if one.kind == "prepared data"]
    assert places[1].name == found.name
    assert found.delete()
    assert {places[0], places[2]} == set(full.home.dataset_cache.iterdir())
    places[1].mkdir()
    os.utime(places[2])
    assert "prepared data" not in [one.kind for one in find_prunable(full.home, 1)], "made today"


@pytest.mark.parametrize(
    "place",
    ["releases/zoo/.4.0123456789ab.tmp/", "releases/zoo/.current.json.0123456789ab.tmp", "servers/3999/"],
)
def test_leavings_of_the_killed_go_after_a_day(full: Zoo, place: str) -> None:
    """What a process is writing or serving just now is not taken for what a dead one has left."""
    left = full.home.root / place
    left.parent.mkdir(exist_ok=True)
    left.mkdir() if place.endswith("/") else left.write_bytes(b"{")
    assert "leftover" not in [one.kind for one in find_prunable(full.home, 1)]
    os.utime(left, (0, 0))
    (found,) = [one for one in find_prunable(full.home, 1) if one.kind == "leftover"]
    assert found.delete()
    assert not left.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["prune"], 2, "--keep"),
        (["prune", "--keep", "0"], 2, "--keep: got 0, accepted: 1 or more"),
        (["prune", "--keep", "few"], 2, "few"),
    ],
)
def test_bad_input_is_one_line(
    full: Zoo, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    """With what is accepted; nothing is removed."""
    before = everything(full.home)
    assert code == run_command_line(arguments)
    errors = capsys.readouterr().err.splitlines()
    assert (1, True) == (len(errors), told in errors[0])
    assert before == everything(full.home)


def test_one_at_a_time(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """A second prune says that one is at work."""
    with FileLock(full.home.root / ".prune.lock"):
        assert 3 == run_command_line(["prune", "--keep", "1"])
    assert "another relearn prune is at work" in capsys.readouterr().err


def killed(zoo: Zoo, seconds: float) -> None:
    """`relearn prune`, killed after so many seconds: whatever is still named is whole."""
    process = subprocess.Popen([RELEARN, "prune", "--keep", "1"], start_new_session=True)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    client = connect(zoo.home)
    for version, run_id in registry.list_versions(client, "zoo").items():
        registry.download_classifier(client, run_id, zoo.home.root / "again" / version / str(seconds))
    for version in zoo.releases.list_versions():
        release = next(e.live for e in zoo.releases.ledger.read_entries() if e.live.version == version)
        assert version == load_release(zoo.releases, release).version
    for folder in bento_store_paths("zoo", zoo.home)[0].glob("[0-9]*"):
        assert find_bento_folder(f"zoo:{folder.name}", zoo.home) == folder
        assert (bento_store_paths("zoo", zoo.home)[1] / folder.name / "card.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_prune_may_be_killed(full: Zoo, seed: int) -> None:
    """Nothing half-deleted is pointed to; the next one does the rest."""
    killed(full, random.Random(seed).uniform(2.0, 6.0))
    run_command_line(["prune", "--keep", "1"])
    assert {False} == set(there(full, "1").values())
    assert [] == find_prunable(full.home, 1)
