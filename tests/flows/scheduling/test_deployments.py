"""Scheduled retraining with a real Prefect server, a real worker and real signals."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from prefect import get_client
from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleUpdate, DeploymentUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings
from prefect.states import Scheduled, State

from relearn.flows.cli.app import run_command_line
from relearn.flows.config import PromotionConfig
from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import Supervisor, run_services
from relearn.flows.orchestration.events import DRIFT_EVENT, resource_id
from relearn.flows.process.environment import tool_defaults
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import deployments
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.flows.training.skip_conditions import (
    INPUT_HASH_TAG,
    build_input_tag,
    describe_identical_retraining,
)
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.ports import find_free_port
from relearn.serving.config import ServeConfig

QUICK = TrainConfig.parse({"dataset": "digits", "epochs": 2})
LONG = TrainConfig.parse({"dataset": "digits", "epochs": 5_000, "learning_rate": 0.001})


def schedule_mlp(name: str, config: TrainConfig = QUICK) -> None:
    deployments.schedule_retraining(
        name, "0 3 1 1 *", "Europe/Berlin", config, ("mlp",), PromotionConfig(), False
    )


def find_retraining(client: SyncPrefectClient, name: str) -> Any:
    return deployments.find_deployment(client, retrain, name)


def test_deployments_are_created_once(on_server: str) -> None:
    """There is one pool, one automation and one deployment per flow; a duplicate automation is deleted."""
    deployments.ensure_deployments(name := "kmnist")
    with get_client(sync_client=True) as client:
        first = find_retraining(client, name)
        (automation,) = client.read_automations_by_name(deployments.ZOMBIE_AUTOMATION)
        client.create_automation(AutomationCore.model_validate(automation.model_dump()))
        deployments.ensure_deployments(name)

        assert first.id == find_retraining(client, name).id
        assert 1 == len(client.read_automations_by_name(deployments.ZOMBIE_AUTOMATION))
        assert "process" == client.read_work_pool(deployments.WORK_POOL).type
        (hourly,) = client.read_deployment_by_name(f"monitor/{name}").schedules
        assert "7 * * * *" == hourly.schedule.cron
        (daily,) = client.read_deployment_by_name("prune/home").schedules
        assert "37 4 * * *" == daily.schedule.cron


def test_changes_in_prefects_ui_are_kept(on_server: str) -> None:
    """A schedule that a user set there survives the next start of the worker."""
    deployments.ensure_deployments(name := "fashion_mnist")
    with get_client(sync_client=True) as client:
        deployment = find_retraining(client, name)
        custom = DeploymentScheduleUpdate(schedule=CronSchedule(cron="7 7 * * *", timezone="UTC"))
        update = DeploymentUpdate(schedules=[custom], parameters={"force": True})
        client.update_deployment(deployment.id, update)
        deployments.ensure_deployments(name)

        (schedule,) = find_retraining(client, name).schedules
        assert "7 7 * * *" == schedule.schedule.cron
        assert {"force": True} == find_retraining(client, name).parameters


def test_schedule_replaces_the_previous_one(on_server: str) -> None:
    """Its settings become the deployment's parameters, and the fields of the form in Prefect's UI."""
    name = f"schedule-{uuid4().hex[:8]}"
    deployments.schedule_retraining(name, "0 1 * * *", "UTC", LONG, ("cnn",), PromotionConfig(), True)
    schedule_mlp(name)
    with get_client(sync_client=True) as client:
        deployment = find_retraining(client, name)
        (schedule,) = deployment.schedules
        assert ("0 3 1 1 *", "Europe/Berlin") == (schedule.schedule.cron, schedule.schedule.timezone)
        assert QUICK == TrainConfig.model_validate(deployment.parameters["config"])
        assert ["mlp"] == deployment.parameters["networks"]
        form = deployment.parameter_openapi_schema["definitions"]["TrainConfig"]["properties"]
        assert set(TrainConfig.model_fields) == set(form)

        deployments.unschedule_retraining(name)
        assert [] == find_retraining(client, name).schedules


def test_prefects_database_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server deletes events, and runs some time after their end."""
    for name, value in tool_defaults(Home(tmp_path, tmp_path)).items():
        monkeypatch.setenv(name, value)
    vacuum = ServerServicesDBVacuumSettings()
    assert {"events", "flow_runs"} <= vacuum.enabled_vacuum_types
    assert timedelta(days=90) == vacuum.retention_period


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cron", "61 * * * *"], "--cron: got '61 * * * *', accepted: five fields that have a next date"),
        (["--cron", "0 3 * * *", "--timezone", "Mars/X"], "--timezone: got 'Mars/X', accepted: a name such"),
        (["--cron", "0 3 * * *", "--disable"], "--disable: got --cron as well, accepted: one of the two"),
        (["--cron", "0 3 * * *", "--dataset", "folder:/not/there"], "dataset: /not/there does not exist"),
        (["--force"], "--force: got no --cron, accepted: only with --cron"),
    ],
)
def test_invalid_schedule_is_rejected(
    flags: list[str], message: str, on_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the flag, and nothing is scheduled."""
    assert 2 == run_command_line(["schedule", *flags])
    assert message in capsys.readouterr().err


def test_last_retraining_is_found_by_its_inputs(copied: Home) -> None:
    """Other inputs do not find it."""
    experiment = Experiment.open_or_create(copied, "digits")
    (last,) = experiment.client.search_runs([experiment.id], "tags.`relearn.job_type` = 'retrain'")

    assert f"run {last.info.run_id[:8]}" in (
        describe_identical_retraining(experiment, {INPUT_HASH_TAG: last.data.tags[INPUT_HASH_TAG]}) or ""
    )
    assert (
        describe_identical_retraining(
            experiment, build_input_tag(QUICK, ("mlp",), PromotionConfig(), "grown")
        )
        is None
    )


def test_each_input_changes_the_tag() -> None:
    """A setting, the networks, the gate, the data: each changes the hash of the inputs."""
    gate, strict = PromotionConfig(), PromotionConfig(min_accuracy=0.5)
    tags = [
        build_input_tag(QUICK, ("mlp",), gate, "a"),
        build_input_tag(LONG, ("mlp",), gate, "a"),
        build_input_tag(QUICK, ("mlp", "cnn"), gate, "a"),
        build_input_tag(QUICK, ("mlp",), strict, "a"),
        build_input_tag(QUICK, ("mlp",), gate, "b"),
    ]
    assert 5 == len({tag[INPUT_HASH_TAG] for tag in tags})
    assert tags[0] == build_input_tag(QUICK, ("mlp",), gate, "a")


@dataclass(frozen=True)
class Stage:
    """Prefect's server and the worker of a home, kept alive; `client` queries the server."""

    home: Home
    supervisor: Supervisor
    client: SyncPrefectClient

    def request(self, **parameters: Any) -> FlowRun:
        """Request a retraining of digits."""
        run: FlowRun = run_deployment("retrain/digits", timeout=0, parameters=parameters)
        return run

    def state(self, run: FlowRun) -> State[Any]:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def until(self, condition: Callable[[], Any], timeout_seconds: float = 180) -> Any:
        """Return the first true value of `condition`; meanwhile the services are polled."""
        deadline = time.monotonic() + timeout_seconds
        while not (value := condition()):
            assert time.monotonic() < deadline
            self.supervisor.poll_states()
            time.sleep(0.5)
        return value

    def end(self, run: FlowRun) -> State[Any]:
        self.until(lambda: self.state(run).is_final())
        return self.state(run)

    def training(self) -> psutil.Process:
        """Wait for a checkpoint; returns the process of the retraining."""
        self.until(lambda: list(self.home.checkpoints.glob("*/*.safetensors")))
        return next(process for process in self.family() if "prefect.engine" in process.cmdline())

    def family(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)


@pytest.fixture
def stage(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    home = Home(tmp_path / "home", tmp_path / "home" / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RELEARN_HOME", "home")  # runs have other working folders
    monkeypatch.setenv("PREFECT_HOME", str(home.prefect))
    monkeypatch.delenv("RELEARN_DATA", raising=False)
    ports = {name: find_free_port() for name in ("prefect", "mlflow", "worker")}
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    all_services = services(home, "digits", ServeConfig(), *ports.values())
    needed = [service for service in all_services if service.name in ("prefect", "worker")]
    with (
        run_services(home, needed) as supervisor,
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{ports['prefect']}/api"}),
    ):
        deadline = time.monotonic() + 120
        while {state.status for state in supervisor.poll_states()} != {"up"}:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        EventsWorker.drain_all()  # it would send events to the server of an earlier test
        with get_client(sync_client=True) as client:
            yield Stage(home, supervisor, client)


def mlflow_statuses(client: MlflowClient) -> list[str]:
    """Return the status of each run in MLflow."""
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.status for run in client.search_runs(experiment_ids)]


@pytest.mark.slow
def test_one_retraining_runs_at_a_time_and_only_for_new_inputs(stage: Stage) -> None:
    """Two triggers start one run; the other is cancelled with a reason. A retraining with the same inputs is
    skipped. Several late runs, and two events, lead to one retraining."""
    schedule_mlp("digits")
    first, second = stage.request(), stage.request()
    ends = {stage.end(run).name: stage.state(run).message for run in (first, second)}
    assert {"Completed", "Cancelled"} == set(ends)
    assert "Deployment concurrency limit reached." == ends["Cancelled"]

    same = stage.end(stage.request())
    assert "Skipped" == same.name
    assert "data and settings are those of run" in (same.message or "")

    deployment = find_retraining(stage.client, "digits")
    times = [datetime.now(UTC) + timedelta(seconds=second) for second in range(4)]
    time.sleep(5)
    late = [
        stage.client.create_flow_run_from_deployment(
            deployment.id, state=Scheduled(scheduled_time=start), parameters={"force": True}
        )
        for start in times
    ]
    caught_up = [stage.end(run) for run in late]
    assert 1 == [state.name for state in caught_up].count("Completed")
    assert {"Completed", "Skipped", "Cancelled"} >= {state.name for state in caught_up}

    earlier_ids = {run.id for run in retrainings(stage)}
    schedule_mlp("digits", QUICK.model_copy(update={"seed": 1}))
    for _ in range(2):
        emit_event(DRIFT_EVENT, resource={"prefect.resource.id": resource_id("digits")})
    stage.until(lambda: [run for run in retrainings(stage) if run.id not in earlier_ids])
    time.sleep(20)  # for a second one to come
    new = [stage.end(run).name for run in retrainings(stage) if run.id not in earlier_ids]
    assert 1 == new.count("Completed")
    assert {"Completed", "Cancelled", "Skipped"} >= set(new)


def retrainings(stage: Stage) -> list[FlowRun]:
    """Return the retrainings that are not scheduled for later."""
    rows = httpx.post(
        f"{str(stage.client.api_url).rstrip('/')}/flow_runs/filter",
        json={"flows": {"name": {"any_": ["retrain"]}}},
    ).json()
    return [FlowRun.model_validate(run) for run in rows if run["state_type"] != "SCHEDULED"]


@pytest.mark.slow
def test_killed_run_is_closed_and_resumed(stage: Stage) -> None:
    """Prefect and MLflow close it at once; a minute later it resumes in the same run of MLflow."""
    client = connect(stage.home)
    run = stage.request(config=LONG.model_dump(mode="json"), networks=["mlp"])
    stage.training().kill()
    assert "Crashed" == stage.end(run).name
    stage.until(lambda: "RUNNING" not in mlflow_statuses(client), 120)
    assert ["KILLED", "KILLED"] == mlflow_statuses(client)

    stage.until(lambda: ["RUNNING", "RUNNING"] == mlflow_statuses(client))
    assert ("Running", 2) == (stage.state(run).name, stage.client.read_flow_run(run.id).run_count)


@pytest.mark.slow
def test_runs_of_a_killed_worker_are_closed_and_resumed(stage: Stage) -> None:
    """They die with the worker, are closed within two minutes, and are resumed by the next worker."""
    client = connect(stage.home)
    run = stage.request(config=LONG.model_dump(mode="json"), networks=["mlp"])
    training = stage.training()
    worker = next(
        process for process in stage.family() if "relearn.flows.scheduling.worker" in process.cmdline()
    )
    worker.kill()
    stage.until(lambda: not training.is_running())
    stage.until(lambda: stage.state(run).is_final(), 120)
    stage.until(lambda: "RUNNING" not in mlflow_statuses(client), 120)
    assert "Crashed" == stage.state(run).name

    stage.until(lambda: ["RUNNING", "RUNNING"] == mlflow_statuses(client))
    assert "Running" == stage.state(run).name


@pytest.mark.slow
def test_shutdown_stops_a_run_at_a_checkpoint(stage: Stage) -> None:
    """The run is closed in MLflow and in Prefect, and resumes from its checkpoint after the next start."""
    client = connect(stage.home)
    run = stage.request(config=LONG.model_dump(mode="json"), networks=["mlp"])
    training = stage.training()
    stage.supervisor.stop()

    assert not training.is_running()
    assert ["KILLED", "KILLED"] == mlflow_statuses(client)
    assert list(stage.home.checkpoints.glob("*/*.safetensors"))
    with closing(sqlite3.connect(stage.home.prefect / "prefect.db")) as database:
        query = "select state_type from flow_run where replace(id, '-', '') = ?"
        assert "RUNNING" != database.execute(query, [run.id.hex]).fetchone()[0]

    next_time = replace(stage, supervisor=Supervisor(stage.supervisor.home, stage.supervisor.services))
    next_time.supervisor.start()
    try:
        next_time.until(lambda: ["RUNNING", "RUNNING"] == mlflow_statuses(client))
    finally:
        next_time.supervisor.stop()
