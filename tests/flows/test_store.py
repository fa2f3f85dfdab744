"""The store of runs: made once, whole, whoever comes first and however he ends."""

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from relearn.flows.tracking.store import connect, ui_url
from relearn.model.errors import InfrastructureError
from relearn.model.home import MLFLOW_UI_URL, Home

CODE = """
import sys
from pathlib import Path
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
print(len(connect(Home(Path(sys.argv[1]), Path(sys.argv[1]))).search_experiments()))
"""


LOG = """
import sys
from pathlib import Path
from relearn.flows.tracking.runs import Experiment
from relearn.model.home import Home
with Experiment.open(Home(Path(sys.argv[1]), Path(sys.argv[1])), "many").start_run("one", {}) as run:
    for step in range(1, 51):
        run.log_metrics({"loss": 1 / step, "accuracy": 0.5}, step)
"""


def start(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, home], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_make_it_at_once(tmp_path: Path) -> None:
    """Both find it whole."""
    both = [start(tmp_path / "home") for _ in range(2)]
    assert [("1\n", ""), ("1\n", "")] == [process.communicate() for process in both]


@pytest.mark.slow
def test_eight_log_at_once(tmp_path: Path) -> None:
    """Each has all its metrics in the end, and none is told that the store is busy."""
    arguments = [sys.executable, "-c", LOG, tmp_path / "home"]
    all_of_them = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    said = {process.communicate()[1] for process in all_of_them}
    client = connect(Home(tmp_path / "home", tmp_path))
    experiment = client.get_experiment_by_name("many")
    runs = client.search_runs([experiment.experiment_id])

    assert [0] * 8 == [process.returncode for process in all_of_them], said
    assert not [line for line in said if "locked" in line]
    assert ["FINISHED"] * 8 == [run.info.status for run in runs]
    for run in runs:
        for key in ("loss", "accuracy"):
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
            assert list(range(1, 51)) == steps


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.0])
def test_one_who_is_killed_while_making_it_is_no_harm(seconds: float, tmp_path: Path) -> None:
    """The next one makes it anew, and nothing half-made stays."""
    process = start(tmp_path / "home")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "home").glob(".mlflow.db.*.tmp")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()

    assert 1 == len(connect(Home(tmp_path / "home", tmp_path)).search_experiments())
    assert {"mlflow.db", ".mlflow.db.lock"} == {path.name for path in (tmp_path / "home").iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The file of a store that is there, and that this process has not opened yet."""
    connect(Home(tmp_path / "made", tmp_path))
    return Path(shutil.copy(tmp_path / "made" / "mlflow.db", tmp_path))


def test_a_torn_store_is_refused_and_kept(store: Path) -> None:
    """Nothing is made anew over it: there may be a way to save what is in it."""
    with store.open("r+b") as file:
        file.write(bytes(100))
    torn = store.read_bytes()
    with pytest.raises(InfrastructureError, match=r"mlflow.db cannot be used: .*file is not a database"):
        connect(Home(store.parent, store.parent))
    assert torn == store.read_bytes()


@pytest.mark.parametrize("revision", ["0123456789ab", "451aebb31d03"], ids=["newer", "older"])
def test_a_store_of_another_mlflow_is_refused_with_what_to_do(revision: str, store: Path) -> None:
    """It is not changed on the way: an upgrade cannot be undone."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("update alembic_version set version_num = ?", [revision])
    with pytest.raises(InfrastructureError, match=r"mlflow.db cannot be used: .*mlflow db upgrade"):
        connect(Home(store.parent, store.parent))
    with closing(sqlite3.connect(store)) as database:
        assert [(revision,)] == database.execute("select version_num from alembic_version").fetchall()


def test_runs_are_shown_where_people_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the server that programs ask, without its password, or where the environment says."""
    assert "http://mlflow:5000" == ui_url("http://user:secret@mlflow:5000/")
    monkeypatch.setenv(MLFLOW_UI_URL, "http://localhost:5000/")
    assert "http://localhost:5000" == ui_url("http://mlflow:5000")
