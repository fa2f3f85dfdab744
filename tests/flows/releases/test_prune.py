"""`relearn home prune` keeps the newest versions and all that is needed, and deletes the rest completely."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from filelock import FileLock

from relearn.flows.cli.app import run_command_line
from relearn.flows.prune import prune
from relearn.flows.releases.prune import find_prunable
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.flows.releases.rollback import roll_back
from relearn.flows.tracking import artifacts, registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.errors import NotFoundError
from relearn.model.home import Home
from relearn.model.networks.pretrained import Pretrained
from relearn.model.training.features import FEATURES_FILE, KEEP_DAYS, compute_features
from relearn.serving.deployment.bento_store import bento_store_paths, find_bento_folder
from relearn.serving.deployment.build_bento import build_bento
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.zoo import Zoo

RELEARN = str(Path(sys.executable).with_name("relearn"))


@pytest.fixture(scope="session")
def shared_full_zoo(one_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Versions 1, 2 and 3 were live one after the other, and each has its Bento; tests use a copy."""
    zoo = one_zoo.copy(tmp_path_factory.mktemp("full") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENTOML_HOME", raising=False)
        for version, folder in zoo.folders.items():
            build_bento(folder, "zoo", version, zoo.home)
            zoo.promote(version)
    sync_with_ledger(zoo.home, "zoo")
    return zoo


@pytest.fixture
def full(shared_full_zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A copy for one test."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return shared_full_zoo.copy(tmp_path / "home")


def test_unused_features_are_deleted(full: Zoo) -> None:
    """Features of images that no training has used for a month go, those of today stay."""
    file, images = full.home.backbones / FEATURES_FILE, np.zeros((3, 1, 8, 8), np.uint8)
    images[:, 0, 0, 0] = range(3)
    network = Pretrained(TrainConfig(network="pretrained"), (1, 8, 8), 2)
    compute_features(network, "0" * 64, images, file)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE features SET day = day - ?", [KEEP_DAYS + 1])
    compute_features(network, "0" * 64, images[:1], file)
    assert ["features 2 images"] == [
        f"{item.kind} {item.name}" for item in find_prunable(full.home, 3) if item.kind == "features"
    ]
    assert 0 == run_command_line(["home", "prune", "--keep", "3"])
    assert [] == [item for item in find_prunable(full.home, 3) if item.kind == "features"]


def file_sizes(home: Home) -> set[tuple[str, int]]:
    """Return all files of a home with their sizes, without MLflow's database and locks."""
    files = (path for path in home.root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {(str(path), path.stat().st_size) for path in files if path.name != "mlflow.db"}


def find_places(zoo: Zoo, version: str) -> dict[str, bool]:
    """Return for each place whether it has something of `version`."""
    bento, bento_model = (store / version for store in bento_store_paths("zoo", zoo.home))
    return {
        "served folder": zoo.releases.version_folder(version).is_dir(),
        "Bento": bento.is_dir(),
        "its model": bento_model.is_dir(),
        "registered": version in registry.list_versions(connect(zoo.home), "zoo"),
    }


def prunable_versions(zoo: Zoo, keep: int = 1) -> list[str]:
    return [prunable.name for prunable in find_prunable(zoo.home, keep) if prunable.kind == "version"]


def test_old_version_is_deleted_everywhere(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder, Bento, Bento model, registration and run files are deleted; other versions still load."""
    run_id = registry.list_versions(connect(full.home), "zoo")["1"]
    before = sum(size for _, size in file_sizes(full.home))
    assert 0 == run_command_line(["home", "prune", "--keep", "1"])

    assert {False} == set(find_places(full, "1").values())
    assert {True} == {*find_places(full, "2").values(), *find_places(full, "3").values()}
    client = connect(full.home)
    (old,) = [tree for tree in artifacts.list_run_trees(client, "zoo") if run_id in tree.run_ids]
    assert [0, 0] == [
        artifacts.measure_bytes(uri) for uri in artifacts.list_artifact_uris(client, old.runs[0])
    ]
    freed = int(capsys.readouterr().out.splitlines()[-1].split()[0].replace(",", ""))
    assert before - sum(size for _, size in file_sizes(full.home)) == freed > 0
    for version in "23":
        release = next(e.live for e in full.releases.ledger.read_entries() if e.live.version == version)
        assert version == load_release(full.releases, release).version
    assert [] == find_prunable(full.home, 1)


def test_use_of_a_deleted_version_is_one_line(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """A rollback to it and a download of its classifier say that it was deleted; the ledger still has it."""
    run_id = registry.list_versions(connect(full.home), "zoo")["1"]
    run_command_line(["home", "prune", "--keep", "1"])
    capsys.readouterr()

    assert 2 == run_command_line(["rollback", "--to", "1", "--reason", "back"])
    assert "version 1 is no longer kept; accepted: 2" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="was deleted by relearn home prune"):
        registry.download_classifier(connect(full.home), run_id, full.home.root / "elsewhere")
    assert ["1", "2", "3"] == [entry.subject for entry in full.releases.ledger.read_entries()]


def test_dry_run_changes_nothing(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` prints the same number of bytes, and deletes no file."""
    before = file_sizes(full.home)
    assert 0 == run_command_line(["home", "prune", "--keep", "1", "--dry-run"])
    output = capsys.readouterr().out
    assert before == file_sizes(full.home)
    assert "zoo 1" in output
    assert " would be freed" in output

    run_command_line(["home", "prune", "--keep", "1"])
    assert output.splitlines()[-1].split()[0] == capsys.readouterr().out.splitlines()[-1].split()[0]


def set_alias(zoo: Zoo) -> None:
    connect(zoo.home).set_registered_model_alias("zoo", "for-the-audit", "1")


def make_live(zoo: Zoo) -> None:
    roll_back(zoo.home, "zoo", "1", "way back")


def make_rollback_target(zoo: Zoo) -> None:
    roll_back(zoo.home, "zoo", "2", "back")


def serve(zoo: Zoo) -> None:
    """Register a server that does not answer, started from the Bento of version 1."""
    folder = zoo.home.root / "servers" / "1"
    RunningServer.from_process(
        os.getpid(), "http://127.0.0.1:1", 1, "zoo:1", "zoo", folder / "workers"
    ).write(folder)


@pytest.mark.parametrize("use", [set_alias, make_live, make_rollback_target, serve])
def test_version_in_use_is_kept(full: Zoo, use: Callable[[Zoo], object]) -> None:
    """A version that is live, a rollback target, served, or has an alias is never deleted, however old."""
    assert ["zoo 1"] == prunable_versions(full)
    use(full)
    assert [] == prunable_versions(full)


def test_version_that_becomes_live_meanwhile_is_kept(full: Zoo) -> None:
    """A user rolled back to it between the search and the deletion."""
    (old,) = [prunable for prunable in find_prunable(full.home, 1) if prunable.kind == "version"]
    make_live(full)
    old.delete()
    assert {True} == set(find_places(full, "1").values())


def test_unfinished_work_is_kept(zoo: Zoo) -> None:
    """An undecided version, a running run and a training that is being resumed are kept."""
    zoo.promote("1")
    assert [] == prunable_versions(zoo)

    experiment = Experiment.open_or_create(zoo.home, "zoo")
    runs = []
    for number in range(3):
        with experiment.start_run(f"interrupted {number}", {"relearn.job_type": "train"}) as run:
            runs.append(run.id)
            (zoo.home.checkpoints / run.id).mkdir(parents=True)
            (zoo.home.checkpoints / run.id / "weights").write_bytes(b"much")
    with FileLock(zoo.home.checkpoints / runs[0] / ".lock"):
        for prunable in find_prunable(zoo.home, 1):
            prunable.delete()
    kept = [number for number, run_id in enumerate(runs) if (zoo.home.checkpoints / run_id).is_dir()]
    assert [0, 2] == kept


def test_runs_of_other_programs_are_kept(zoo: Zoo) -> None:
    """MLflow may be shared: their experiments and registered versions are kept."""
    client = connect(zoo.home)
    experiment_id = client.create_experiment("forecast", artifact_location=zoo.home.artifacts.as_uri())
    for number in range(3):
        with mlflow.start_run(experiment_id=experiment_id, run_name=f"forecast {number}"):
            mlflow.log_text("rain", "tomorrow.txt")
    assert not [prunable for prunable in find_prunable(zoo.home, 1) if "forecast" in prunable.name]
    assert [] == prunable_versions(zoo), "nothing of zoo was ever released in this home"


def test_prepared_data_of_earlier_sources_is_deleted(full: Zoo) -> None:
    """Kept are those used last or today, with and without feedback, and what a kept version learned from."""
    fingerprint = full.releases.read_card("1").fingerprint

    def prepare(name: str, age: int, fingerprint: str, extra_images: str | None = None) -> Path:
        folder = full.home.dataset_cache / name
        folder.mkdir(parents=True)
        manifest = {"uri": "folder:/a", "settings": {"limit": None}, "extra_images": extra_images}
        (folder / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": fingerprint}))
        os.utime(folder, (age, age))
        return folder

    prepare("last", 5, "5" * 64)
    prepare("of a version", 1, fingerprint)
    prepare("with feedback", 4, "4" * 64, "yes")
    before = {*full.home.dataset_cache.glob("*")}
    earlier, reused = prepare("earlier", 3, "3" * 64), prepare("earlier feedback", 2, "2" * 64, "yes")
    prunables = [item for item in find_prunable(full.home, 3) if item.kind == "prepared data"]
    assert {earlier.name, reused.name} == {item.name for item in prunables}
    os.utime(reused)  # by a training that has begun
    assert [True, False] == [item.delete() for item in prunables]
    assert before | {reused} == {*full.home.dataset_cache.glob("[!.]*")}


def test_scheduled_prune_deletes_what_can_be_made_again(full: Zoo, on_server: str) -> None:
    """Its first run in a home only tells, as a dry run does; versions and files of runs stay."""
    orphan = full.home.root / "releases/zoo/.4.0123456789ab.tmp"
    orphan.mkdir()
    (orphan / "half").write_bytes(b"{")
    os.utime(orphan, (0, 0))
    versions = full.releases.list_versions()
    assert [1, 1] == [prune(keep=1), prune(keep=1, dry_run=True)]
    assert orphan.exists()
    assert 1 == prune(keep=1)
    assert (False, versions) == (orphan.exists(), full.releases.list_versions())
    assert "1 bytes are freed" in (full.home.root / "prune.md").read_text()


@pytest.mark.parametrize(
    "place",
    ["releases/zoo/.4.0123456789ab.tmp/", "releases/zoo/.current.json.0123456789ab.tmp", "servers/3999/"],
)
def test_orphaned_files_of_killed_processes_are_deleted_after_a_day(full: Zoo, place: str) -> None:
    """Files that a live process writes or serves at the moment are kept."""
    orphan = full.home.root / place
    orphan.parent.mkdir(exist_ok=True)
    orphan.mkdir() if place.endswith("/") else orphan.write_bytes(b"{")
    assert "orphaned file" not in [item.kind for item in find_prunable(full.home, 1)]
    os.utime(orphan, (0, 0))
    (prunable,) = [item for item in find_prunable(full.home, 1) if item.kind == "orphaned file"]
    assert prunable.delete()
    assert not orphan.exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["home", "prune"], 2, "--keep"),
        (["home", "prune", "--keep", "0"], 2, "--keep: got 0, accepted: 1 or more"),
        (["home", "prune", "--keep", "few"], 2, "few"),
    ],
)
def test_invalid_argument_is_one_line(
    full: Zoo, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, message: str
) -> None:
    """The line says what is accepted; nothing is deleted."""
    before = file_sizes(full.home)
    assert exit_code == run_command_line(arguments)
    errors = capsys.readouterr().err.splitlines()
    assert (1, True) == (len(errors), message in errors[0])
    assert before == file_sizes(full.home)


def test_one_prune_runs_at_a_time(full: Zoo, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one is rejected."""
    with FileLock(full.home.root / ".prune.lock"):
        assert 3 == run_command_line(["home", "prune", "--keep", "1"])
    assert "another relearn home prune, or a backup, runs in" in capsys.readouterr().err


def kill_prune_and_check(zoo: Zoo, seconds: float) -> None:
    """Kill `relearn home prune` after so many seconds; check that all still referenced files are complete."""
    process = subprocess.Popen([RELEARN, "home", "prune", "--keep", "1"], start_new_session=True)
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
def test_prune_may_be_killed(full: Zoo, seed: int) -> None:
    """No reference to a deleted file is left; the next prune deletes the rest."""
    kill_prune_and_check(full, random.Random(seed).uniform(2.0, 6.0))
    run_command_line(["home", "prune", "--keep", "1"])
    assert {False} == set(find_places(full, "1").values())
    assert [] == find_prunable(full.home, 1)
