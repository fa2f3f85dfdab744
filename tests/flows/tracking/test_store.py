"""The local store of MLflow: created atomically, also by several processes at once."""

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from relearn.flows.ops.doctor import run_check
from relearn.flows.tracking import store as store_module
from relearn.flows.tracking.store import connect, connect_existing, ui_url
from relearn.model import file_lock
from relearn.model.errors import InfrastructureError, NotFoundError
from relearn.model.home import MLFLOW_UI_URL, Home

COUNT_EXPERIMENTS = """
import sys
from pathlib import Path
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
print(len(connect(Home(Path(sys.argv[1]), Path(sys.argv[1]))).search_experiments()))
"""
LOG_METRICS = """
import sys
from pathlib import Path
from relearn.flows.tracking.runs import Experiment
from relearn.model.home import Home
home = Home(Path(sys.argv[1]), Path(sys.argv[1]))
with Experiment.open_or_create(home, "many").start_run("one", {}) as run:
    for step in range(1, 51):
        run.log_metrics({"loss": 1 / step, "accuracy": 0.5}, step)
"""


def start(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT_EXPERIMENTS, home],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_create_the_store_at_once(tmp_path: Path) -> None:
    """Both find a complete store."""
    both = [start(tmp_path / "home") for _ in range(2)]
    assert [("1\n", ""), ("1\n", "")] == [process.communicate() for process in both]


def test_waiting_for_the_creation_of_the_store_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the database and the lock file."""
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_SECONDS", 0.1)
    lock_file = tmp_path / ".mlflow.db.lock"
    with FileLock(lock_file), pytest.raises(InfrastructureError) as error:
        connect(Home(tmp_path, tmp_path))
    message = f"another process is still creating {tmp_path / 'mlflow.db'}: {lock_file} is locked"
    assert str(error.value).startswith(message)


def test_empty_database_is_created_as_a_missing_one(tmp_path: Path) -> None:
    """MLflow would create its tables in place, which is not atomic; reading creates nothing."""
    home = Home(tmp_path, tmp_path)
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(NotFoundError, match="no run yet"):
        connect_existing(home)
    assert 0 == (tmp_path / "mlflow.db").stat().st_size
    assert 1 == len(connect(home).search_experiments())


def test_folder_in_the_place_of_the_database_is_reported_at_once(tmp_path: Path) -> None:
    """MLflow itself would retry for 100 seconds."""
    (tmp_path / "mlflow.db").mkdir()
    start_time = time.monotonic()
    with pytest.raises(InfrastructureError, match=r"mlflow\.db is no regular file"):
        connect(Home(tmp_path, tmp_path))
    assert time.monotonic() - start_time < 20


def test_locked_database_is_reported_by_commands_and_doctor(tmp_path: Path) -> None:
    """With what to do, and before MLflow tries again and again."""
    home = Home(tmp_path, tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute("create table t (x)")
        database.execute("begin exclusive")
        with pytest.raises(InfrastructureError, match=r"mlflow\.db is locked by .*; wait until"):
            connect(home)
        (result,) = run_check(home, "mlflow", "store")
    assert ("failed", file_lock.DATABASE_FIX) == (result.state, result.fix)
    assert "mlflow.db is locked by " in result.message


@pytest.mark.slow
def test_eight_processes_log_at_once(tmp_path: Path) -> None:
    """Each run has all its metrics in the end, and none gets an error about a locked database."""
    arguments = [sys.executable, "-c", LOG_METRICS, tmp_path / "home"]
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    errors = {process.communicate()[1] for process in processes}
    client = connect(Home(tmp_path / "home", tmp_path))
    experiment = client.get_experiment_by_name("many")
    runs = client.search_runs([experiment.experiment_id])

    assert [0] * 8 == [process.returncode for process in processes], errors
    assert not [error for error in errors if "locked" in error]
    assert ["FINISHED"] * 8 == [run.info.status for run in runs]
    for run in runs:
        for key in ("loss", "accuracy"):
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
            assert list(range(1, 51)) == steps


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.05, marks=pytest.mark.slow), 0.4, pytest.param(1.0, marks=pytest.mark.slow)]
)
def test_process_killed_while_creating_the_store_leaves_no_partial_store(
    seconds: float, tmp_path: Path
) -> None:
    """The next process creates it, and no temporary file stays."""
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
    """The file of an existing store that this process has not opened yet."""
    connect(Home(tmp_path / "original", tmp_path))
    return Path(shutil.copy(tmp_path / "original" / "mlflow.db", tmp_path))


def test_damaged_store_is_rejected_and_kept(store: Path) -> None:
    """It is not replaced by an empty one: its content may be recoverable."""
    with store.open("r+b") as file:
        file.write(bytes(100))
    damaged = store.read_bytes()
    with pytest.raises(InfrastructureError, match=r"mlflow.db cannot be used: .*file is not a database"):
        connect(Home(store.parent, store.parent))
    assert damaged == store.read_bytes()


@pytest.mark.parametrize("revision", ["0123456789ab", "451aebb31d03"], ids=["newer", "older"])
def test_store_of_another_mlflow_is_rejected_with_the_upgrade_command(revision: str, store: Path) -> None:
    """It is not upgraded automatically: an upgrade cannot be undone."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("update alembic_version set version_num = ?", [revision])
    with pytest.raises(InfrastructureError, match=r"mlflow.db cannot be used: .*mlflow db upgrade"):
        connect(Home(store.parent, store.parent))
    with closing(sqlite3.connect(store)) as database:
        assert [(revision,)] == database.execute("select version_num from alembic_version").fetchall()


def test_ui_url_is_the_servers_or_the_configured_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of the server has no password; the environment may name another URL for browsers."""
    assert "http://mlflow:5000" == ui_url("http://user:secret@mlflow:5000/")
    monkeypatch.setenv(MLFLOW_UI_URL, "http://localhost:5000/")
    assert "http://localhost:5000" == ui_url("http://mlflow:5000")
