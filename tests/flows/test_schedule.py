"""Retraining by the clock: a real Prefect server, a real runner, real signals."""

import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled, State

from relearn.flows.cli.app import run_command_line
from relearn.flows.config import PromotionConfig
from relearn.flows.monitoring.alerts import DRIFT_EVENT, resource_id
from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import Supervisor, run_services
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import deployments, reconcile
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.flows.training.already_trained import (
    INPUT_HASH_TAG,
    build_input_tag,
    describe_identical_retraining,
)
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from tests.flows.conftest import free_port

QUICK = TrainConfig.parse({"dataset": "digits", "epochs": 2})
LONG = TrainConfig.parse({"dataset": "digits", "epochs": 5_000, "learning_rate": 0.001})


def plan(name: str, config: TrainConfig = QUICK, insist: bool = False) -> None:
    deployments.schedule_retraining(
        name, "0 3 1 1 *", "Europe/Berlin", config, ("mlp",), PromotionConfig(), insist
    )


def deployed(client: SyncPrefectClient, name: str) -> Any:
    return deployments.find_deployment(client, retrain, name)


def test_a_server_is_made_ready_once(on_server: str) -> None:
    """One pool, one rule, one deployment a name, however often; a second rule goes."""
    deployments.ensure_deployments(name := "kmnist")
    with get_client(sync_client=True) as client:
        first = deployed(client, name)
        (rule,) = client.read_automations_by_name(deployments.ZOMBIE_AUTOMATION)
        client.create_automation(AutomationCore.model_validate(rule.model_dump()))
        deployments.ensure_deployments(name)

        assert first.id == deployed(client, name).id
        assert 1 == len(client.read_automations_by_name(deployments.ZOMBIE_AUTOMATION))
        assert "process" == client.read_work_pool(deployments.WORK_POOL).type
        (hourly,) = client.read_deployment_by_name(f"monitor/{name}").schedules
        assert "7 * * * *" == hourly.schedule.cron


def test_what_was_changed_in_the_page_stays(on_server: str) -> None:
    """A schedule that somebody set there is there after the runner has started again."""
    deployments.ensure_deployments(name := "fashion_mnist")
    with get_client(sync_client=True) as client:
        found = deployed(client, name)
        theirs = DeploymentScheduleUpdate(schedule=CronSchedule(cron="7 7 * * *", timezone="UTC"))
        client.update_deployment(found.id, DeploymentUpdate(schedules=[theirs], parameters={"insist": True}))
        deployments.ensure_deployments(name)

        (kept,) = deployed(client, name).schedules
        assert "7 7 * * *" == kept.schedule.cron
        assert {"insist": True} == deployed(client, name).parameters


def test_a_plan_replaces_the_one_before(on_server: str) -> None:
    """Its settings are the parameters of the form; the form's fields are those of our settings."""
    name = f"plan-{uuid4().hex[:8]}"
    deployments.schedule_retraining(name, "0 1 * * *", "UTC", LONG, ("cnn",), PromotionConfig(), True)
    plan(name)
    with get_client(sync_client=True) as client:
        found = deployed(client, name)
        (only,) = found.schedules
        assert ("0 3 1 1 *", "Europe/Berlin") == (only.schedule.cron, only.schedule.timezone)
        assert QUICK == TrainConfig.model_validate(found.parameters["config"])
        assert ["mlp"] == found.parameters["networks"]
        form = found.parameter_openapi_schema["definitions"]["TrainConfig"]["properties"]
        assert set(TrainConfig.model_fields) == set(form)

        deployments.unschedule_retraining(name)
        assert [] == deployed(client, name).schedules


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--cron", "61 * * * *"], "--cron: got '61 * * * *', accepted: five fields, such as \"0 3 * * *\""),
        (["--cron", "0 3 * * *", "--timezone", "Mars/X"], "--timezone: got 'Mars/X', accepted: a name such"),
        (["--cron", "0 3 * * *", "--disable"], "--disable: got --cron as well, accepted: one of the two"),
        (["--cron", "0 3 * * *", "--dataset", "folder:/not/there"], "dataset: /not/there does not exist"),
        (["--force"], "--timezone and --force: got no --cron, accepted: with --cron only"),
    ],
)
def test_a_wrong_plan_is_refused(
    flags: list[str], line: str, on_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, and nothing is planned."""
    assert 2 == run_command_line(["schedule", *flags])
    assert line in capsys.readouterr().err


def test_the_same_again_is_known(copied: Home) -> None:
    """The retraining that ended last is found by its inputs, and by no others."""
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


def test_whatever_changes_is_worth_a_training() -> None:
    """A setting, the networks, the gate, the data: each makes other inputs."""
    gate, strict = PromotionConfig(), PromotionConfig(min_accuracy=0.5)
    changed = [
        build_input_tag(QUICK, ("mlp",), gate, "a"),
        build_input_tag(LONG, ("mlp",), gate, "a"),
        build_input_tag(QUICK, ("mlp", "cnn"), gate, "a"),
        build_input_tag(QUICK, ("mlp",), strict, "a"),
        build_input_tag(QUICK, ("mlp",), gate, "b"),
    ]
    assert 5 == len({one[INPUT_HASH_TAG] for one in changed})
    assert changed[0] == build_input_tag(QUICK, ("mlp",), gate, "a")


@dataclass(frozen=True)
class Stage:
    """Prefect's server and the runner of a home, kept up; `client` asks the server."""

    home: Home
    supervisor: Supervisor
    client: SyncPrefectClient

    def ask(self, **parameters: Any) -> FlowRun:
        """Let a retraining of digits be due now."""
        found: FlowRun = run_deployment("retrain/digits", timeout=0, parameters=parameters)
        return found

    def state(self, run: FlowRun) -> State[Any]:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def until(self, true: Callable[[], Any], seconds: float = 180) -> Any:
        """What it returns, once it does; the runner has to be looked after meanwhile."""
        deadline = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < deadline
            self.supervisor.poll_states()
            time.sleep(0.5)
        return value

    def end(self, run: FlowRun) -> State[Any]:
        self.until(lambda: self.state(run).is_final())
        return self.state(run)

    def training(self) -> psutil.Process:
        """The process of the retraining that runs, once it has a checkpoint."""
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
    ports = {part: free_port() for part in ("prefect", "mlflow", "worker")}
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    wanted = services(home, "digits", ServeConfig(), *ports.values())
    light = [part for part in wanted if part.name in ("prefect", "worker")]
    with (
        run_services(home, light) as supervisor,
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{ports['flows']}/api"}),
    ):
        deadline = time.monotonic() + 120
        while {state.status for state in supervisor.poll_states()} != {"up"}:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with get_client(sync_client=True) as client:
            yield Stage(home, supervisor, client)


def tracked(client: MlflowClient) -> list[str]:
    """The states of all runs."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.status for run in client.search_runs(everywhere)]


@pytest.mark.slow
def test_one_at_a_time_and_never_for_nothing(stage: Stage) -> None:
    """Of two triggers one runs, and the other is refused with a reason; the same data are skipped; of several
    that are late one catches up; of two events one starts a retraining."""
    plan("digits")
    first, second = stage.ask(), stage.ask()
    ends = {stage.end(run).name: stage.state(run).message for run in (first, second)}
    assert {"Completed", "Cancelled"} == set(ends)
    assert "Deployment concurrency limit reached." == ends["Cancelled"]

    same = stage.end(stage.ask())
    assert "Skipped" == same.name
    assert "data and settings are those of run" in (same.message or "")

    found = deployed(stage.client, "digits")
    times = [datetime.now(UTC) + timedelta(seconds=second) for second in range(4)]
    time.sleep(5)
    insisting = {"parameters": {"insist": True}}
    make = stage.client.create_flow_run_from_deployment
    late = [make(found.id, state=Scheduled(scheduled_time=one), **insisting) for one in times]
    caught_up = [stage.end(run) for run in late]
    assert 1 == [state.name for state in caught_up].count("Completed")
    assert {"Completed", "Skipped", "Cancelled"} >= {state.name for state in caught_up}

    before = {run.id for run in retrainings(stage)}
    plan("digits", QUICK.model_copy(update={"seed": 1}))
    for _ in range(2):
        emit_event(DRIFT_EVENT, resource={"prefect.resource.id": resource_id("digits")})
    stage.until(lambda: [run for run in retrainings(stage) if run.id not in before])
    time.sleep(20)  # for a second one to come
    new = [stage.end(run).name for run in retrainings(stage) if run.id not in before]
    assert 1 == new.count("Completed")
    assert {"Completed", "Cancelled", "Skipped"} >= set(new)


def retrainings(stage: Stage) -> list[FlowRun]:
    """Those of the deployment that are not still to come."""
    found = httpx.post(
        f"{str(stage.client.api_url).rstrip('/')}/flow_runs/filter",
        json={"flows": {"name": {"any_": ["retrain"]}}},
    ).json()
    return [FlowRun.model_validate(run) for run in found if run["state_type"] != "SCHEDULED"]


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_closed_and_goes_on_by_itself(stage: Stage) -> None:
    """In Prefect and in MLflow, at once; a minute later it goes on in the same run of MLflow."""
    client = connect(stage.home)
    run = stage.ask(config=LONG.model_dump(mode="json"), networks=["mlp"])
    stage.training().kill()
    assert "Crashed" == stage.end(run).name
    stage.until(lambda: "RUNNING" not in tracked(client), 120)
    assert ["KILLED", "KILLED"] == tracked(client)

    stage.until(lambda: ["RUNNING", "RUNNING"] == tracked(client))
    assert ("Running", 2) == (stage.state(run).name, stage.client.read_flow_run(run.id).run_count)


@pytest.mark.slow
def test_a_killed_runner_leaves_nothing_running(stage: Stage) -> None:
    """Its runs die with it, are closed in two minutes, and go on with the runner that comes after."""
    client = connect(stage.home)
    run = stage.ask(config=LONG.model_dump(mode="json"), networks=["mlp"])
    training = stage.training()
    runner = next(one for one in stage.family() if "relearn.flows.scheduling.runner" in one.cmdline())
    runner.kill()
    stage.until(lambda: not training.is_running())
    stage.until(lambda: stage.state(run).is_final(), 120)
    stage.until(lambda: "RUNNING" not in tracked(client), 120)
    assert "Crashed" == stage.state(run).name

    stage.until(lambda: ["RUNNING", "RUNNING"] == tracked(client))
    assert "Running" == stage.state(run).name


@pytest.mark.slow
def test_who_ends_everything_lets_a_run_stop_where_it_can_go_on(stage: Stage) -> None:
    """It is over in MLflow and in Prefect, and has a checkpoint, from which it goes on the next time."""
    client = connect(stage.home)
    run = stage.ask(config=LONG.model_dump(mode="json"), networks=["mlp"])
    training = stage.training()
    stage.supervisor.stop()

    assert not training.is_running()
    assert ["KILLED", "KILLED"] == tracked(client)
    assert list(stage.home.checkpoints.glob("*/*.safetensors"))
    with closing(sqlite3.connect(stage.home.prefect / "prefect.db")) as database:
        asked = "select state_type from flow_run where replace(id, '-', '') = ?"
        assert "RUNNING" != database.execute(asked, [run.id.hex]).fetchone()[0]

    next_time = replace(stage, supervisor=Supervisor(stage.supervisor.folder, stage.supervisor.services))
    next_time.supervisor.start()
    try:
        next_time.until(lambda: ["RUNNING", "RUNNING"] == tracked(client))
    finally:
        next_time.supervisor.stop()


def test_lost_runs_are_closed(copied: Home, on_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run whose Prefect server has never heard of it."""
    monkeypatch.setenv("PREFECT_API_URL", f"{on_server}/api")
    client = connect(copied)
    experiment = client.get_experiment_by_name("digits").experiment_id
    tags = {"relearn.host": socket.gethostname(), "relearn.pid": "1@0", "relearn.flow_run": str(uuid4())}
    client.create_run(experiment, run_name="lost", tags=tags)
    reconcile.close_orphaned_runs(copied)

    assert "RUNNING" not in tracked(client)


def test_a_lost_run_is_closed_in_prefect_first(copied: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Prefect is away MLflow goes on calling it running, for the next look to find it."""
    client = connect(copied)
    experiment = client.get_experiment_by_name("digits").experiment_id
    tags = {"relearn.host": socket.gethostname(), "relearn.pid": "1@0", "relearn.flow_run": str(uuid4())}
    client.create_run(experiment, run_name="lost", tags=tags)
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(httpx.ConnectError):
        reconcile.close_orphaned_runs(copied)

    assert "RUNNING" in tracked(client)
