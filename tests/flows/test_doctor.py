"""Promises of the doctor: each planted fault is found, with what mends it, and looking changes nothing."""

import http.server
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg2
import pytest

from relearn.flows import process_identity
from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.doctor import CheckResult, run_check
from relearn.flows.orchestration import prefect_api
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.flows.tracking import artifacts
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.serving.deployment.discovery import RunningServer
from tests.flows.conftest import Ran, free_port
from tests.flows.postgres import Postgres
from tests.flows.zoo import Zoo

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server that runs here by chance is looked at."""
    for name in ("PREFECT_SERVER_API_PORT", "RELEARN_PORT"):
        monkeypatch.setenv(name, str(free_port()))


@pytest.fixture
def live(zoo: Zoo) -> Zoo:
    """Version 2 is live, version 1 was before, the aliases say so."""
    zoo.promote("1")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")
    return zoo


@pytest.fixture
def hanging() -> Iterator[str]:
    """A server that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def one(home: Home, seam: str, check: str) -> CheckResult:
    """What a check found, which is one thing."""
    (found,) = run_check(home, seam, check)
    return found


def test_a_fresh_home_is_well_and_stays_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """What is not there yet is no failure, and is not made by looking."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == run_command_line(["doctor"]), capsys.readouterr()

    said = capsys.readouterr().out
    assert "is not there yet" in said
    assert "0 failed" in said
    assert [] == list(tmp_path.iterdir())


def test_a_sound_home_is_well_and_stays_as_it_is(live: Zoo, capsys: Capture) -> None:
    """Every check of store and releases is well; no file comes, goes or changes."""

    def files() -> dict[Path, bytes]:
        found = (path for path in live.home.root.rglob("*") if path.is_file() and "lock" not in path.name)
        return {path: path.read_bytes() for path in found}

    before, folders = files(), {path for path in live.home.root.rglob("*") if path.is_dir()}
    assert 0 == run_command_line(["doctor"]), capsys.readouterr()
    said = capsys.readouterr().out

    for check in ("home", "store", "artifacts", "orphaned_runs", "aliases", "ledger", "pointer", "live"):
        assert f"✓ {check}" in said
    assert "✗" not in said
    assert before == files()
    assert folders == {path for path in live.home.root.rglob("*") if path.is_dir()}


def test_an_sqlalchemy_with_which_no_schedule_fires_is_found(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all packages this is the one whose fault nothing else shows."""
    info = tmp_path / "installed" / "sqlalchemy-2.1.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: SQLAlchemy\nVersion: 2.1.9\n")
    monkeypatch.syspath_prepend(str(info.parent))

    found = one(zoo.home, "system", "versions")
    assert ("failed", "sqlalchemy") == (found.state, found.subject)
    assert (
        "sqlalchemy 2.1.9, asked for is <2.1,>=2.0.40: with 2.1 Prefect's scheduler has died" in found.message
    )
    assert f"{sys.executable} -m pip install 'sqlalchemy<2.1,>=2.0.40'" == found.fix


@pytest.mark.parametrize(
    ("revision", "told", "mend"),
    [
        ("451aebb31d03", "is of an older MLflow: its schema is 451aebb31d03", "mlflow db upgrade sqlite:///"),
        (
            "0123456789ab",
            "this one does not know its schema, 0123456789ab",
            "install the MLflow that made it",
        ),
    ],
)
def test_a_store_of_another_mlflow_is_told_from_an_older_one(
    zoo: Zoo, revision: str, told: str, mend: str
) -> None:
    """Only an older one can be brought up to date."""
    with closing(sqlite3.connect(zoo.home.root / "mlflow.db", isolation_level=None)) as database:
        database.execute("update alembic_version set version_num = ?", [revision])

    found = one(zoo.home, "mlflow", "store")
    assert "failed" == found.state
    assert told in found.message
    assert mend in found.fix


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_a_store_in_postgresql_is_looked_at_alike(
    zoo: Zoo, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its schema, and whether it is there; a password is never told."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri.replace("relearn@", "relearn:secret@"))
    with closing(psycopg2.connect(postgres.uri)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("create table alembic_version (version_num varchar(32))")
        cursor.execute("create table experiments (id int)")
        cursor.execute("insert into alembic_version values ('451aebb31d03')")
        older = one(zoo.home, "mlflow", "store")
    postgres.stop("immediate")
    gone = one(zoo.home, "mlflow", "store")

    assert "is of an older MLflow: its schema is 451aebb31d03" in older.message
    assert 'mlflow db upgrade "$MLFLOW_TRACKING_URI"' in older.fix
    assert ("failed", "failed") == (older.state, gone.state)
    assert "start that database" in gone.fix
    assert "secret" not in f"{older} {gone}"


@pytest.mark.parametrize("place", ["its head", "a page of it"])
def test_a_damaged_store_is_found_and_kept(zoo: Zoo, place: str) -> None:
    """Also where MLflow does not notice: its own questions do not touch every page."""
    file = zoo.home.root / "mlflow.db"
    with file.open("r+b") as opened:
        opened.seek(0 if place == "its head" else file.stat().st_size - 4096)
        opened.write(b"\xff" * 4096)
    damaged = file.read_bytes()

    found = one(zoo.home, "mlflow", "store")
    assert "failed" == found.state
    assert f"put a copy of {file} back; without one, sqlite3 {file} .recover" in found.fix
    assert damaged == file.read_bytes()


def test_servers_that_are_away_are_named(zoo: Zoo, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that somebody named; where nobody named one, none has to be there."""
    assert "skipped" == one(zoo.home, "prefect", "server").state
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")

    store, server = one(zoo.home, "mlflow", "store"), one(zoo.home, "prefect", "server")
    assert ("failed", "failed") == (store.state, server.state)
    assert f"MLflow at http://127.0.0.1:{port} cannot be used" in store.message
    assert "start what MLFLOW_TRACKING_URI names, or unset it" in store.fix
    assert f"PREFECT_API_URL: no Prefect server answers at http://127.0.0.1:{port}" == server.message
    assert "unset PREFECT_API_URL" in server.fix


def test_servers_that_hang_hold_nothing_up(
    live: Zoo, hanging: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Both are told, what depends on them is left out, and all that comes after them is looked at."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", hanging)
    monkeypatch.setenv("PREFECT_API_URL", f"{hanging}/api")
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", hanging.rpartition(":")[2])
    assert 3 == run_command_line(["doctor"])

    said, errors = capsys.readouterr()
    assert "✗ store" in said
    assert f"✗ server        {hanging} takes connections, and does not answer" in said
    assert "aliases" not in said
    assert "✓ live" in said
    assert (
        "error[infrastructure]: failed checks: mlflow store, prefect server; each fix is printed above\n"
        == errors
    )


def test_an_mlflow_server_that_refuses_its_name_says_which_option(
    zoo: Zoo, mlflow_page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is the one in the tracking URI, here another way to write 127.0.0.1."""
    called = mlflow_page.removeprefix("http://").replace("127.0.0.1", "127.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{called}")

    found = one(zoo.home, "mlflow", "store")
    assert ("failed", f"start it with --allowed-hosts {called}, beside those it has") == (
        found.state,
        found.fix,
    )


def test_a_file_goes_through_the_server_and_leaves_nothing(mlflow_page: str, ran: Ran) -> None:
    """It is kept by MLflow's server, comes back, and is gone from its folder."""
    artifacts.probe_write(mlflow_page.replace("http://", "mlflow-artifacts://"))
    assert not list(Path(ran.folder).rglob("doctor-*"))
    (ran.folder / "mlartifacts").rmdir()  # MLflow's own, and empty


def test_artifacts_that_cannot_be_kept_are_found(zoo: Zoo) -> None:
    """Here a file stands where their folder was."""
    zoo.home.artifacts.rename(zoo.home.root / "aside")
    zoo.home.artifacts.write_text("a file")

    found = one(zoo.home, "mlflow", "artifacts")
    assert ("failed", True) == (found.state, "let this user write there" in found.fix)


def test_a_run_without_a_process_is_found(zoo: Zoo) -> None:
    """It is closed by the next run, or goes on where something is kept of it; another machine's is left."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    client = connect(zoo.home)
    tags = {**process_identity.process_tags(), process_identity.PROCESS_TAG: f"{ended.pid}@0"}
    run = client.create_run("1", tags=tags, run_name="zombie").info.run_id
    client.create_run("1", tags={**tags, process_identity.HOST_TAG: "elsewhere"})

    found = one(zoo.home, "mlflow", "orphaned_runs")
    assert ("warning", "the next relearn run closes it") == (found.state, found.fix)
    assert f"zombie ({run[:8]}) is said to be running" in found.message
    (zoo.home.checkpoints / run).mkdir(parents=True)
    assert f"relearn train --resume {run[:8]} goes on with it" == one(zoo.home, "mlflow", "orphaned_runs").fix
    assert "RUNNING" == client.get_run(run).info.status


def test_an_alias_moved_by_hand_is_found_and_left(live: Zoo) -> None:
    """The mend is the release of what is live, which changes nothing else."""
    client = connect(live.home)
    client.set_registered_model_alias("zoo", "champion", "3")

    found = one(live.home, "mlflow", "aliases")
    assert ("warning", "zoo") == (found.state, found.subject)
    assert "@champion means 3, the ledger says 2" == found.message
    assert f"relearn release {live.releases.read_current().run_id[:8]} puts that right" in found.fix
    assert {"champion": "3", "previous": "1"} == live.aliases()
    client.delete_model_version("zoo", "2")
    assert "version 2 is gone from MLflow's registry" in one(live.home, "mlflow", "aliases").message


def test_a_changed_line_of_the_ledger_is_a_matter_of_integrity(live: Zoo, capsys: Capture) -> None:
    """Exit code 4; the line is named, and what depends on it is not guessed."""
    path = live.releases.ledger.path
    path.write_text(path.read_text().replace('"better"', '"better!"', 1))
    assert 4 == run_command_line(["doctor"])

    said, errors = capsys.readouterr()
    assert f"{path}, line 2 does not follow the line before it" in said
    assert "put a copy of ledger.jsonl back" in said
    assert "✓ pointer" not in said
    assert "error[corrupt_data]: failed checks: releases ledger; each fix is printed above\n" == errors


def test_a_pointer_moved_by_hand_is_found(live: Zoo) -> None:
    """What is named puts it right."""
    pointer = live.releases.root / "current.json"
    pointer.write_text(pointer.read_text().replace('"2"', '"1"', 1))
    found = one(live.home, "releases", "pointer")
    assert ("warning", "means version 1, the ledger says version 2") == (found.state, found.message)
    pointer.write_text("{")
    assert "is no live pointer" in one(live.home, "releases", "pointer").message

    live.releases.repair_pointer()
    assert "ok" == one(live.home, "releases", "pointer").state


def test_a_damaged_release_is_found_and_the_mend_mends(live: Zoo, capsys: Capture) -> None:
    """The command that is told brings the version before back."""
    weights = live.releases.version_folder("2") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")

    found = one(live.home, "releases", "live")
    assert ("failed", 4) == (found.state, found.exit_code)
    command = found.fix.partition(" brings version 1 back")[0]
    assert 0 == run_command_line(command.split()[1:]), capsys.readouterr()
    assert "version 1 loads" in one(live.home, "releases", "live").message


class Answer(http.server.BaseHTTPRequestHandler):
    """A server of version 1."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("x-relearn-version", "1")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_answers_with_another_version_is_found(live: Zoo, port: int) -> None:
    """And one that does not answer at all; each with what to do."""

    def known(url: str) -> None:
        folder = live.home.root / "servers" / "x"
        RunningServer.from_process(os.getpid(), url, 1, "zoo:1", "zoo", folder).write(folder)

    assert "skipped" == one(live.home, "releases", "servers").state
    known(f"http://127.0.0.1:{port}")
    silent = one(live.home, "releases", "servers")
    assert ("failed", f"runs as process {os.getpid()}, and does not answer") == (silent.state, silent.message)
    assert "relearn serve --model-name zoo" in silent.fix
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        known(f"http://127.0.0.1:{server.server_port}")
        other = one(live.home, "releases", "servers")
        server.shutdown()
    assert ("failed", "answers with version 1, the ledger of zoo says 2") == (other.state, other.message)
    assert "/info" in other.fix


def test_a_port_in_use_is_told_with_who_has_it(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failure: another one can be chosen."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("RELEARN_PORT", str(port))
        found = {found.subject: found for found in run_check(zoo.home, "system", "ports")}[f"port {port}"]
    assert "warning" == found.state
    assert f"process {os.getpid()}" in found.message
    assert f"relearn serve --port {port + 1}" in found.fix


def test_a_file_of_keys_that_others_can_read_is_told(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that cannot be read, or holds none; no key is ever told."""
    file = tmp_path / "keys"
    file.write_text("a-key-that-is-long-enough\n")
    monkeypatch.setenv("RELEARN_API_KEYS_FILE", str(file))
    file.chmod(0o644)
    assert ("warning", f"chmod 600 {file}") == (
        (found := one(zoo.home, "system", "keys")).state,
        found.fix,
    )
    file.chmod(0o600)
    assert "ok" == one(zoo.home, "system", "keys").state
    file.write_text("short\n")
    found = one(zoo.home, "system", "keys")
    assert ("failed", False) == (found.state, "short" in found.message)
    file.unlink()
    assert "cannot be read" in one(zoo.home, "system", "keys").message


def test_a_full_disk_is_told_and_ends_no_check(disk: Callable[[str], Path], capsys: Capture) -> None:
    """The home takes no files, the disk has no room, the mend is to make some."""
    place = disk("size=1m")
    (place / "home").mkdir()
    with suppress(OSError):
        (place / "filler").write_bytes(bytes(2_000_000))
    assert 3 == run_command_line(["doctor"])

    said, errors = capsys.readouterr()
    assert "takes no files: No space left on device" in said
    assert "✗ disk" in said
    assert "make room: relearn prune --keep 3" in said
    assert "· servers" in said
    assert "error[infrastructure]: failed checks: system home, system disk" in errors
    assert [] == list((place / "home").iterdir())


def test_a_file_in_the_place_of_the_home_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """In one line, and the file stays."""
    home = tmp_path / "home"
    home.write_text("kept")
    monkeypatch.setenv("RELEARN_HOME", str(home))
    assert 2 == run_command_line(["doctor"])
    refused = f"error[user_input]: RELEARN_HOME: got '{home}', which is a file; accepted: a folder\n"
    assert refused == capsys.readouterr().err
    assert "kept" == home.read_text()


def test_a_database_of_prefect_that_is_none_is_told(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, or of another Prefect."""
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    file = zoo.home.prefect / "prefect.db"
    assert "skipped" == one(zoo.home, "prefect", "database").state
    file.parent.mkdir()
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values ('a3b9c7d2e5f1')")
        assert "ok" == one(zoo.home, "prefect", "database").state
        database.execute("update alembic_version set version_num = '0123456789ab'")
    assert "does not know its schema, 0123456789ab" in one(zoo.home, "prefect", "database").message
    file.write_bytes(b"no database" * 1000)
    assert "move the file away" in one(zoo.home, "prefect", "database").fix


@pytest.fixture
def prefect(prefect_page: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """The real server, with a work pool of ours while the test lasts."""
    monkeypatch.setenv("PREFECT_API_URL", f"{prefect_page}/api")
    with httpx.Client(base_url=f"{prefect_page}/api", timeout=30) as client:
        yield client
        for automation in client.post("/automations/filter", json={}).json():
            client.delete(f"/automations/{automation['id']}")
        client.delete(f"/work_pools/{prefect_api.WORK_POOL}")


def test_a_schedule_without_runner_and_rule_is_found(zoo: Zoo, prefect: httpx.Client) -> None:
    """Where something is scheduled, a worker takes it, and one rule ends what was killed."""
    assert {"ok", "skipped"} == {
        one(zoo.home, "prefect", check).state for check in ("server", "worker", "automation")
    }
    prefect.post("/work_pools/", json={"name": prefect_api.WORK_POOL, "type": "process"}).raise_for_status()
    assert "relearn up keeps one" in one(zoo.home, "prefect", "worker").fix
    assert "relearn up sets it when it starts" == one(zoo.home, "prefect", "automation").fix

    beat = {"name": "x", "heartbeat_interval_seconds": 30}
    prefect.post(f"/work_pools/{prefect_api.WORK_POOL}/workers/heartbeat", json=beat).raise_for_status()
    assert "1 online: x" == one(zoo.home, "prefect", "worker").message
    rule = {
        "name": prefect_api.ZOMBIE_AUTOMATION,
        "trigger": {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1, "within": 0},
        "actions": [{"type": "do-nothing"}],
    }
    states = []
    for _ in range(2):
        prefect.post("/automations/", json=rule).raise_for_status()
        states.append(one(zoo.home, "prefect", "automation").state)
    assert ["ok", "warning"] == states


def test_runs_that_are_stuck_are_found(
    zoo: Zoo, prefect: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late ones, and one that runs without a heartbeat; when the next is due is told."""
    assert "ok" == one(zoo.home, "prefect", "stuck_runs").state
    flow = prefect.post("/flows/", json={"name": "retrain"}).json()["id"]
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    late = {"type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": past}}
    runs = [
        prefect.post("/flow_runs/", json={"flow_id": flow, "name": name, "state": state}).json()["id"]
        for name, state in {"late": late, "silent": {"type": "RUNNING"}}.items()
    ]
    monkeypatch.setattr(prefect_api, "ZOMBIE_GRACE", timedelta(0))
    told = [found.message for found in run_check(zoo.home, "prefect", "stuck_runs")]
    for run in runs:
        prefect.delete(f"/flow_runs/{run}")
    assert any(line.startswith("1 runs are late, the first since ") for line in told), told
    assert any(line.startswith("silent is said to be running") for line in told), told

    deployment = {"name": "zoo", "flow_id": flow, "schedules": [{"schedule": {"interval": 3600}}]}
    made = prefect.post("/deployments/", json=deployment).json()["id"]
    try:
        (found,) = run_check(zoo.home, "prefect", "next_run")
        assert ("failed", "retrain/zoo") == (found.state, found.subject)
        prefect.post(f"/deployments/{made}/schedule", json={}).raise_for_status()
        (found,) = run_check(zoo.home, "prefect", "next_run")
        assert found.message.startswith("next at ")
    finally:
        prefect.delete(f"/deployments/{made}")
