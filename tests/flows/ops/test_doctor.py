"""`relearn doctor` finds each planted fault, says how to fix it, and changes nothing."""

import http.server
import os
import socket
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import mlflow
import psycopg2
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.checks.check import CheckResult
from relearn.flows.ops.doctor import run_check
from relearn.flows.orchestration import prefect_api
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.flows.scheduling import recovery_policy
from relearn.flows.tracking import artifacts
from relearn.flows.tracking.runs import PROCESS_TAG
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.model.ports import find_free_port
from relearn.model.process_identity import identify_process
from relearn.serving.deployment.bento_store import MANIFESTS, bento_store_paths
from relearn.serving.deployment.discovery import RunningServer
from tests.flows.conftest import Ran
from tests.flows.postgres import Postgres
from tests.flows.zoo import Zoo

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check no server that runs on this machine by chance."""
    for name in ("PREFECT_SERVER_API_PORT", "RELEARN_PORT"):
        monkeypatch.setenv(name, str(find_free_port()))


@pytest.fixture
def live(zoo: Zoo) -> Zoo:
    """Version 2 is live, version 1 is the rollback target, and the aliases agree."""
    zoo.promote("1")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")
    return zoo


@pytest.fixture
def hanging() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def run_one(home: Home, group: str, check: str) -> CheckResult:
    """Return the only result of a check."""
    (result,) = run_check(home, group, check)
    return result


def test_missing_home_is_no_fault_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """All checks pass or are skipped."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == run_command_line(["doctor"]), capsys.readouterr()

    output = capsys.readouterr().out
    assert "is not there yet" in output
    assert "0 failed" in output
    assert [] == list(tmp_path.iterdir())


def test_healthy_home_passes_and_is_not_changed(live: Zoo, capsys: Capture) -> None:
    """Every check of the store and the releases passes; no file is created, deleted or changed."""

    def read_files() -> dict[Path, bytes]:
        paths = (path for path in live.home.root.rglob("*") if path.is_file() and "lock" not in path.name)
        return {path: path.read_bytes() for path in paths}

    before, folders = read_files(), {path for path in live.home.root.rglob("*") if path.is_dir()}
    assert 0 == run_command_line(["doctor"]), capsys.readouterr()
    output = capsys.readouterr().out

    for check in ("home", "store", "artifacts", "interrupted", "aliases", "ledger", "live"):
        assert f"✓ {check}" in output
    assert "✗" not in output
    assert before == read_files()
    assert folders == {path for path in live.home.root.rglob("*") if path.is_dir()}


def test_sqlalchemy_that_breaks_schedules_is_found(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other symptom shows this fault."""
    info = tmp_path / "installed" / "sqlalchemy-2.1.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: SQLAlchemy\nVersion: 2.1.9\n")
    monkeypatch.syspath_prepend(str(info.parent))

    result = run_one(zoo.home, "system", "versions")
    assert ("failed", "sqlalchemy") == (result.state, result.subject)
    assert (
        "sqlalchemy 2.1.9, required is <2.1,>=2.0.40: with 2.1 Prefect's scheduler has died" in result.message
    )
    assert f"{sys.executable} -m pip install 'sqlalchemy<2.1,>=2.0.40'" == result.fix


@pytest.mark.parametrize(
    ("revision", "message", "fix"),
    [
        ("451aebb31d03", "is of an older MLflow: its schema is 451aebb31d03", "mlflow db upgrade sqlite:///"),
        (
            "0123456789ab",
            "its schema, 0123456789ab, is unknown to this one",
            "install the MLflow that created it",
        ),
    ],
)
def test_store_of_an_older_or_unknown_mlflow_is_found(
    zoo: Zoo, revision: str, message: str, fix: str
) -> None:
    """Only a store of an older MLflow can be upgraded."""
    with closing(sqlite3.connect(zoo.home.root / "mlflow.db", isolation_level=None)) as database:
        database.execute("update alembic_version set version_num = ?", [revision])

    result = run_one(zoo.home, "mlflow", "store")
    assert "failed" == result.state
    assert message in result.message
    assert fix in result.fix


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_store_in_postgresql_is_checked_too(
    zoo: Zoo, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its schema and whether it answers are checked; its password is never printed."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri.replace("relearn@", "relearn:secret@"))
    with closing(psycopg2.connect(postgres.uri)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("create table alembic_version (version_num varchar(32))")
        cursor.execute("create table experiments (id int)")
        cursor.execute("insert into alembic_version values ('451aebb31d03')")
        older = run_one(zoo.home, "mlflow", "store")
    postgres.stop("immediate")
    unreachable = run_one(zoo.home, "mlflow", "store")

    assert "is of an older MLflow: its schema is 451aebb31d03" in older.message
    assert 'mlflow db upgrade "$MLFLOW_TRACKING_URI"' in older.fix
    assert ("failed", "failed") == (older.state, unreachable.state)
    assert "start that database" in unreachable.fix
    assert "secret" not in f"{older} {unreachable}"


@pytest.mark.parametrize("place", ["header", "last page"])
def test_damaged_store_is_found_and_kept(zoo: Zoo, place: str) -> None:
    """Damage that MLflow's own queries do not touch is found too."""
    file = zoo.home.root / "mlflow.db"
    with file.open("r+b") as opened:
        opened.seek(0 if place == "header" else file.stat().st_size - 4096)
        opened.write(b"\xff" * 4096)
    damaged = file.read_bytes()

    result = run_one(zoo.home, "mlflow", "store")
    assert "failed" == result.state
    assert f"restore {file} from a copy; without one, sqlite3 {file} .recover" in result.fix
    assert damaged == file.read_bytes()


def test_unreachable_servers_are_named(zoo: Zoo, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured server has to answer; without configuration none is needed."""
    assert "skipped" == run_one(zoo.home, "prefect", "server").state
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")

    store, server = run_one(zoo.home, "mlflow", "store"), run_one(zoo.home, "prefect", "server")
    assert ("failed", "failed") == (store.state, server.state)
    assert f"MLflow at http://127.0.0.1:{port} cannot be used" in store.message
    assert "start the store of MLFLOW_TRACKING_URI, or unset it" in store.fix
    assert f"PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:{port}" == server.message
    assert "unset PREFECT_API_URL" in server.fix


def test_hanging_servers_delay_no_other_check(
    live: Zoo, hanging: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Both are reported, checks that depend on them are left out, and all others run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", hanging)
    monkeypatch.setenv("PREFECT_API_URL", f"{hanging}/api")
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", hanging.rpartition(":")[2])
    assert 3 == run_command_line(["doctor"])

    output, errors = capsys.readouterr()
    assert "✗ store" in output
    assert f"✗ server        {hanging} takes connections, and does not answer" in output
    assert "aliases" not in output
    assert "✓ live" in output
    assert "no answer within" not in output, "requests end by limits of their own, before those of the check"
    assert (
        "error[infrastructure]: failed checks: mlflow store, prefect server; each fix is printed above\n"
        == errors
    )


def test_mlflow_server_that_rejects_the_host_name_gets_the_option_as_fix(
    zoo: Zoo, mlflow_page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host name is that of the tracking URI, here another spelling of 127.0.0.1."""
    host = mlflow_page.removeprefix("http://").replace("127.0.0.1", "127.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{host}")

    result = run_one(zoo.home, "mlflow", "store")
    assert ("failed", f"start it with --allowed-hosts {host}, in addition to its present ones") == (
        result.state,
        result.fix,
    )


def test_probe_through_mlflows_server_leaves_no_file(mlflow_page: str, ran: Ran) -> None:
    """The server stores the file, returns it, and deletes it."""
    mlflow.set_tracking_uri(mlflow_page)
    artifacts.probe_write(mlflow_page.replace("http://", "mlflow-artifacts://"))
    assert not list(Path(ran.folder).rglob("doctor-*"))
    (ran.folder / "mlartifacts").rmdir()  # MLflow created it; it is empty


def test_artifacts_that_cannot_be_stored_are_found(zoo: Zoo) -> None:
    """Here a file is in the place of their folder."""
    zoo.home.artifacts.rename(zoo.home.root / "moved")
    zoo.home.artifacts.write_text("a file")

    result = run_one(zoo.home, "mlflow", "artifacts")
    assert ("failed", True) == (result.state, "let this user write there" in result.fix)


def test_run_without_a_process_is_found(zoo: Zoo) -> None:
    """The next run closes it, or it is resumed from a checkpoint; runs of other machines are ignored."""
    client, identity = connect(zoo.home), identify_process()
    gone = f"{identity.rpartition('@')[0]}@1"
    run = client.create_run("1", tags={PROCESS_TAG: gone}, run_name="lost").info.run_id
    client.create_run("1", tags={PROCESS_TAG: identity})
    client.create_run("1", tags={PROCESS_TAG: f"elsewhere{gone}"})

    (result,) = run_check(zoo.home, "runs", "interrupted")
    assert ("warning", "lost is RUNNING in MLflow, and its process is gone") == (result.state, result.message)
    assert "the worker of relearn up closes it, and so does the next relearn run" == result.fix
    (zoo.home.checkpoints / run).mkdir(parents=True)
    assert f"relearn train --resume {run[:8]} continues it" == run_one(zoo.home, "runs", "interrupted").fix
    assert "RUNNING" == client.get_run(run).info.status


def test_manually_moved_alias_is_found_and_kept(live: Zoo) -> None:
    """The fix is to release the live version again, which changes nothing else."""
    client = connect(live.home)
    client.set_registered_model_alias("zoo", "champion", "3")

    result = run_one(live.home, "mlflow", "aliases")
    assert ("warning", "zoo") == (result.state, result.subject)
    assert f"@champion points to {live.version('3')}, the ledger says {live.version('2')}" == result.message
    assert f"relearn release {live.releases.read_live().run_id[:8]} corrects this" in result.fix
    assert {"champion": "3", "previous": "1"} == live.aliases()


def test_changed_entry_of_the_ledger_is_corrupt_data(live: Zoo, capsys: Capture) -> None:
    """The exit code is 4, the entry is named, and checks that depend on the ledger are left out."""
    path = live.releases.ledger.entry_path(1)
    path.write_text(path.read_text().replace('"better"', '"better!"', 1))
    assert 4 == run_command_line(["doctor"])

    output, errors = capsys.readouterr()
    assert f"{live.releases.ledger.entry_path(2)} does not follow the entry before it" in output
    assert f"restore {live.releases.ledger.folder} from a copy" in output
    assert "✓ live" not in output
    assert "error[corrupt_data]: failed checks: releases ledger; each fix is printed above\n" == errors


def test_fix_of_a_damaged_release_works(live: Zoo, capsys: Capture) -> None:
    """The printed command makes the previous version live again."""
    weights = live.releases.version_folder("2") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    result = run_one(live.home, "releases", "live")
    assert ("failed", 4) == (result.state, result.exit_code)
    command = result.fix.partition(" makes version 1 live again")[0]
    assert 0 == run_command_line(command.split()[1:]), capsys.readouterr()
    assert "version 1 loads" in run_one(live.home, "releases", "live").message


@pytest.mark.parametrize(
    "content",
    [b"", bytes(100), b"name: [", b"name: zoo\nversion: '3'\n"],
    ids=lambda content: f"{len(content)} bytes",
)
def test_damaged_bento_is_found(content: bytes, live: Zoo, capsys: Capture) -> None:
    """By `doctor` and by `serve`, which starts no server: the line names file and command."""
    file = bento_store_paths("zoo", live.home)[len(content) % 2] / "2" / MANIFESTS[len(content) % 2]
    assert "ok" == run_one(live.home, "releases", "bento").state
    file.write_bytes(content)
    result = run_one(live.home, "releases", "bento")
    assert ("failed", 4) == (result.state, result.exit_code)
    assert f"{file} is damaged: got {len(content)} bytes, accepted" in result.message
    assert 4 == run_command_line(["serve"])
    assert f"{result.message}; {result.fix}\n" in capsys.readouterr().err
    file.unlink()
    assert f"{file} is missing" in run_one(live.home, "releases", "bento").message


class FirstVersionServer(http.server.BaseHTTPRequestHandler):
    """A server that serves version 1."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("x-relearn-version", "1")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_server_with_another_version_is_found(live: Zoo, port: int) -> None:
    """A server that does not answer is found too; each result has a fix."""

    def register_server(url: str) -> None:
        folder = live.home.root / "servers" / "x"
        RunningServer.from_process(os.getpid(), url, 1, "zoo:1", "zoo", folder).write(folder)

    assert "skipped" == run_one(live.home, "releases", "servers").state
    register_server(f"http://127.0.0.1:{port}")
    silent = run_one(live.home, "releases", "servers")
    assert ("failed", f"runs as process {os.getpid()}, and does not answer") == (silent.state, silent.message)
    assert "relearn serve --model-name zoo" in silent.fix
    with http.server.HTTPServer(("127.0.0.1", 0), FirstVersionServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        register_server(f"http://127.0.0.1:{server.server_port}")
        outdated = run_one(live.home, "releases", "servers")
        server.shutdown()
    assert ("failed", "answers with version 1, the ledger of zoo says 2") == (
        outdated.state,
        outdated.message,
    )
    assert "/info" in outdated.fix


def test_port_in_use_is_reported_with_its_process(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a warning: another port can be chosen."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("RELEARN_PORT", str(port))
        results = {result.subject: result for result in run_check(zoo.home, "system", "ports")}
    result = results[f"port {port}"]
    assert "warning" == result.state
    assert f"process {os.getpid()}" in result.message
    assert f"relearn serve --port {port + 1}" in result.fix


def test_key_file_that_others_can_read_is_reported(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a file that cannot be read or has no valid key; no key is ever printed."""
    file = tmp_path / "keys"
    file.write_text("a-key-that-is-long-enough\n")
    monkeypatch.setenv("RELEARN_API_KEYS_FILE", str(file))
    file.chmod(0o644)
    result = run_one(zoo.home, "system", "keys")
    assert ("warning", f"chmod 600 {file}") == (result.state, result.fix)
    file.chmod(0o600)
    assert "ok" == run_one(zoo.home, "system", "keys").state
    file.write_text("short\n")
    result = run_one(zoo.home, "system", "keys")
    assert ("failed", False) == (result.state, "short" in result.message)
    file.unlink()
    assert "cannot be read" in run_one(zoo.home, "system", "keys").message


def test_full_disk_is_reported_and_ends_no_check(disk: Callable[[str], Path], capsys: Capture) -> None:
    """The home is not writable, the disk has no room, and the fix is to make room."""
    place = disk("size=1m")
    (place / "home").mkdir()
    with suppress(OSError):
        (place / "filler").write_bytes(bytes(2_000_000))
    assert 3 == run_command_line(["doctor"])

    output, errors = capsys.readouterr()
    assert "is not writable: No space left on device" in output
    assert "✗ disk" in output
    assert "make room: relearn home prune --keep 3" in output
    assert "· servers" in output
    assert "error[infrastructure]: failed checks: system home, system disk" in errors
    assert [] == list((place / "home").iterdir())


def test_full_temporary_folder_is_reported(
    disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """MLflow needs room there, wherever the home is: a training stops before its work."""
    folder = disk("size=1m")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    result = run_one(Home.from_environment(), "system", "limits")
    assert "failed" == result.state
    assert f"free bytes for temporary files in {folder}: got 1,048,576, accepted: " in result.message
    assert "set TMPDIR to another folder" in result.message
    assert 3 == run_command_line(["train", "--dataset", "digits"])
    assert capsys.readouterr().err.startswith(f"error[infrastructure]: {result.message}")


def test_file_in_the_place_of_the_home_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The message is one line, and the file is kept."""
    home = tmp_path / "home"
    home.write_text("kept")
    monkeypatch.setenv("RELEARN_HOME", str(home))
    assert 2 == run_command_line(["doctor"])
    message = f"error[user_input]: RELEARN_HOME: got '{home}', which is a file; accepted: a folder\n"
    assert message == capsys.readouterr().err
    assert "kept" == home.read_text()


def test_unusable_database_of_prefect_is_reported(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is damaged, or of another Prefect."""
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    file = zoo.home.prefect / "prefect.db"
    assert "skipped" == run_one(zoo.home, "prefect", "database").state
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values ('a3b9c7d2e5f1')")
        assert "ok" == run_one(zoo.home, "prefect", "database").state
        database.execute("update alembic_version set version_num = '0123456789ab'")
    assert (
        "its schema, 0123456789ab, is unknown to this one" in run_one(zoo.home, "prefect", "database").message
    )
    file.write_bytes(b"no database" * 1000)
    assert "move the file away" in run_one(zoo.home, "prefect", "database").fix


@pytest.fixture
def prefect(prefect_page: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of the real server; our work pool and automations are deleted after the test."""
    monkeypatch.setenv("PREFECT_API_URL", f"{prefect_page}/api")
    with httpx.Client(base_url=f"{prefect_page}/api", timeout=30) as client:
        yield client
        for automation in client.post("/automations/filter", json={}).json():
            client.delete(f"/automations/{automation['id']}")
        client.delete(f"/work_pools/{prefect_api.WORK_POOL}")


def test_schedule_without_worker_or_automation_is_found(zoo: Zoo, prefect: httpx.Client) -> None:
    """Scheduled flows need an online worker, and one automation that ends killed runs."""
    assert {"ok", "skipped"} == {
        run_one(zoo.home, "prefect", check).state for check in ("server", "worker", "automation")
    }
    prefect.post("/work_pools/", json={"name": prefect_api.WORK_POOL, "type": "process"}).raise_for_status()
    assert "relearn up runs one" in run_one(zoo.home, "prefect", "worker").fix
    assert "relearn up creates it when it starts" == run_one(zoo.home, "prefect", "automation").fix

    heartbeat = {"name": "x", "heartbeat_interval_seconds": 30}
    prefect.post(f"/work_pools/{prefect_api.WORK_POOL}/workers/heartbeat", json=heartbeat).raise_for_status()
    assert "1 online: x" == run_one(zoo.home, "prefect", "worker").message
    automation = {
        "name": prefect_api.ZOMBIE_AUTOMATION,
        "trigger": {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1, "within": 0},
        "actions": [{"type": "do-nothing"}],
    }
    states = []
    for _ in range(2):
        prefect.post("/automations/", json=automation).raise_for_status()
        states.append(run_one(zoo.home, "prefect", "automation").state)
    assert ["ok", "warning"] == states


def test_stuck_runs_are_found(zoo: Zoo, prefect: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """These are late runs and a run without heartbeat; the next run of a schedule is reported too."""
    assert "ok" == run_one(zoo.home, "prefect", "late_runs").state
    assert "ok" == run_one(zoo.home, "runs", "interrupted").state
    flow = prefect.post("/flows/", json={"name": "retrain"}).json()["id"]
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    late = {"type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": past}}
    runs = [
        prefect.post("/flow_runs/", json={"flow_id": flow, "name": name, "state": state}).json()["id"]
        for name, state in {"late": late, "silent": {"type": "RUNNING"}}.items()
    ]
    monkeypatch.setattr(recovery_policy, "HEARTBEAT_TIMEOUT", timedelta(0))
    late_run, silent_run = (
        run_one(zoo.home, group, check)
        for group, check in {"prefect": "late_runs", "runs": "interrupted"}.items()
    )
    for run in runs:
        prefect.delete(f"/flow_runs/{run}")
    assert late_run.message.startswith("1 runs are late, the first since ")
    assert "silent is RUNNING in Prefect, and its process is gone" == silent_run.message

    # Due after the 100 days for which Prefect schedules runs by itself.
    due = datetime.now(UTC) + timedelta(days=140)
    schedule = {"interval": timedelta(days=141).total_seconds(), "anchor_date": due.isoformat()}
    deployment = {"name": "zoo", "flow_id": flow, "schedules": [{"schedule": schedule}]}
    deployment_id = prefect.post("/deployments/", json=deployment).raise_for_status().json()["id"]
    try:
        (result,) = run_check(zoo.home, "prefect", "next_run")
        assert ("failed", "retrain/zoo") == (result.state, result.subject)
        horizon = {"end_time": (due + timedelta(days=1)).isoformat()}
        prefect.post(f"/deployments/{deployment_id}/schedule", json=horizon).raise_for_status()
        (result,) = run_check(zoo.home, "prefect", "next_run")
        assert result.message.startswith("next at ")
    finally:
        prefect.delete(f"/deployments/{deployment_id}")
