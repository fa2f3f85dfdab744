"""A home that was moved or copied: MLflow's paths follow it, and the original is not touched."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.doctor import run_check
from relearn.flows.orchestration.local_stack import LocalStack
from relearn.flows.tracking import registry
from relearn.flows.tracking.artifacts import delete_artifacts, list_artifact_uris
from relearn.flows.tracking.relocation import find_former_location
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.serving.deployment.discovery import RunningServer, find_running_servers
from tests.flows.zoo import Zoo


def read_values(home: Home) -> Iterator[str]:
    """Yield every text in MLflow's store."""
    with closing(sqlite3.connect(home.root / "mlflow.db")) as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for row in database.execute(f'select * from "{table}"'):
                yield from (value for value in row if isinstance(value, str))


def read_tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture
def moved(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """The zoo at another place, whose name has a space, a quote and a percent sign; no command was run."""
    root = tmp_path / "new place" / "100 % o'clock"
    root.parent.mkdir()
    shutil.move(zoo.home.root, root)
    monkeypatch.setenv("RELEARN_HOME", str(root))
    folders = {version: root / "fetched" / version for version in zoo.folders}
    return Zoo(Home(root, root), folders, zoo.run_ids)


def test_moved_home_reads_and_writes_where_it_is(
    moved: Zoo, zoo: Zoo, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs, models and versions are read there, a new run is stored there; the old place stays away."""
    client = connect(moved.home)
    for version, run_id in registry.list_versions(client, "zoo").items():
        folder = registry.download_classifier(client, run_id, moved.home.root / "again" / version)
        assert Classifier.load(folder).card == Classifier.load(moved.folders[version]).card
    with Experiment.open_or_create(moved.home, "zoo").start_run("animal 4", {}) as run:
        run.log_text("heard", "notes.txt")
    assert "heard" == mlflow.artifacts.load_text(f"{client.get_run(run.id).info.artifact_uri}/notes.txt")
    assert [] == [value for value in read_values(moved.home) if f"{zoo.home.root}/" in value]
    assert not zoo.home.root.exists()
    assert f"the home was at {zoo.home.root}: " in capsys.readouterr().err
    connect(moved.home)
    assert "" == capsys.readouterr().err


def test_copy_does_not_touch_the_original(one_zoo: Zoo, zoo: Zoo) -> None:
    """A prune of the copy deletes its own files, also those whose deletion was interrupted before."""
    before, client = read_tree(one_zoo.home.root), connect(zoo.home)
    runs = client.search_runs(["1"])
    for run in runs:
        delete_artifacts(client, run)
    uris = [uri for run in client.search_runs(["1"]) for uri in list_artifact_uris(client, run)]
    assert 2 * len(runs) == len(uris)
    assert all(uri.startswith(f"{zoo.home.artifacts.as_uri()}/") for uri in uris)

    again = zoo.copy(zoo.home.root.with_name("again")).home
    client = connect(again)
    uris = [uri for run in client.search_runs(["1"]) for uri in list_artifact_uris(client, run)]
    assert all(uri.startswith(f"{again.artifacts.as_uri()}/") for uri in uris), "the tag of the prune"
    assert before == read_tree(one_zoo.home.root)


def test_copy_has_no_processes(tmp_path: Path) -> None:
    """Services and servers of the original do not count as those of its copy, which might stop them."""
    home, copy = (Home(tmp_path / name, tmp_path / name) for name in ("home", "copy"))
    folder = home.root / "servers" / "3000"
    LocalStack.write(home, {"prefect": "http://127.0.0.1:1"})
    RunningServer.from_process(os.getpid(), "http://127.0.0.1:1", 1, None, "zoo", folder / "workers").write(
        folder
    )
    shutil.copytree(home.root, copy.root)
    assert (True, 1) == (LocalStack.read(home) is not None, len(list(find_running_servers(home))))
    assert (None, []) == (LocalStack.read(copy), list(find_running_servers(copy)))


def test_paths_of_other_places_are_kept(zoo: Zoo) -> None:
    """Experiments of other programs, and a place whose name only begins like that of the home."""
    client = connect(zoo.home)
    others = [
        f"{zoo.home.artifacts.as_uri()}2/forecast",
        "s3://bucket/artifacts",
        "file:///elsewhere/artifacts",
    ]
    for number, location in enumerate(others):
        client.create_experiment(f"other {number}", artifact_location=location)
    copy = zoo.copy(zoo.home.root.with_name("copy"))
    locations = {experiment.artifact_location for experiment in connect(copy.home).search_experiments()}
    root = copy.home.artifacts.as_uri()
    assert {root, f"{root}/0", *others} == locations


def test_home_behind_a_link_is_at_its_place(zoo: Zoo, tmp_path: Path) -> None:
    """Two names of one folder do not alternate in the store."""
    link = tmp_path / "link"
    link.symlink_to(zoo.home.root)
    assert find_former_location(Home(link, link)) is None
    connect(zoo.home)
    connect(Home(link, link))
    assert [] == [value for value in read_values(zoo.home) if str(link) in value]


def test_doctor_reports_a_moved_home_and_changes_nothing(
    moved: Zoo, zoo: Zoo, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its fix is a command that corrects the paths; then the check passes."""
    before = read_tree(moved.home.root)
    (result,) = run_check(moved.home, "mlflow", "store")
    message = f"mlflow.db names files in {zoo.home.root}, but this home is {moved.home.root}"
    assert ("failed", True) == (result.state, message in result.message)
    assert before == read_tree(moved.home.root)

    assert result.fix.startswith("relearn compare corrects this")
    assert 0 == run_command_line(["compare"]), capsys.readouterr()
    (result,) = run_check(moved.home, "mlflow", "store")
    assert "ok" == result.state


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", range(0, 60, 6))
def test_relocation_may_be_killed(moved: Zoo, zoo: Zoo, milliseconds: int) -> None:
    """All paths are the former or all the present ones, and the next start changes the rest."""
    code = (
        "from relearn.flows.tracking.relocation import relocate; from relearn.model.home import Home;"
        "home = Home.from_environment(); print(flush=True); relocate(home)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.kill()
    former = [value for value in read_values(moved.home) if f"{zoo.home.root}/" in value]
    current = [value for value in read_values(moved.home) if f"{moved.home.artifacts.as_uri()}/" in value]
    assert not (former and current)
    connect(moved.home)
    assert [] == [value for value in read_values(moved.home) if f"{zoo.home.root}/" in value]
