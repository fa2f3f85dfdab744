"""Interrupted and lost runs, reconciled by the worker: with a real Prefect server and a real MLflow."""

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from filelock import FileLock
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.states import (
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Running,
    State,
)
from prometheus_client.parser import text_string_to_metric_families

from infra.chaos.temporary_stack import wait_for
from relearn.flows import process_identity
from relearn.flows.config import PromotionConfig
from relearn.flows.orchestration import prefect_api
from relearn.flows.orchestration.connect import prefect_errors
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import deployments, recovery
from relearn.flows.tracking.runs import FLOW_RUN_TAG, find_running
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home
from relearn.model.training import checkpoints
from relearn.serving.metrics.textfile_metrics import WORKER_FILE
from tests.flows.conftest import forget

QUICK = TrainConfig.parse({"dataset": "digits", "epochs": 2})


@dataclass(frozen=True)
class Retraining:
    """A deployment of this test; `server` reads its runs as the worker does, `client` changes them."""

    name: str
    id: UUID
    server: PrefectApi
    client: SyncPrefectClient

    def run(self, *states: State) -> FlowRun:
        """Create a run that has passed through these states."""
        run = self.client.create_flow_run_from_deployment(self.id)
        self.set_states(run, *states)
        return run

    def set_states(self, run: FlowRun, *states: State) -> None:
        for state in states:
            self.client.set_flow_run_state(run.id, state, force=True)

    def state(self, run: FlowRun) -> State:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def reschedule(self, open_flow_run_ids: frozenset[str] = frozenset()) -> int:
        """Reschedule interrupted runs; returns how many of this deployment were."""
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.id]))
        names = tuple(run.name for run in self.client.read_flow_runs(flow_run_filter=ours))
        messages = recovery.reschedule_interrupted(self.server, open_flow_run_ids)
        return sum(message.startswith(names) for message in messages)


@pytest.fixture
def retraining(on_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Retraining]:
    """A deployment without grace time: a run without heartbeat is dead at once."""
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(0))
    monkeypatch.setenv("PREFECT_API_URL", f"{on_server}/api")
    name = f"reconcile-{uuid4().hex[:8]}"
    deployments.schedule_retraining(name, "0 3 1 1 *", "UTC", QUICK, ("mlp",), PromotionConfig(), False)
    with get_client(sync_client=True) as client:
        deployment = deployments.find_deployment(client, retrain, name)
        assert deployment is not None
        yield Retraining(name, deployment.id, PrefectApi(f"{on_server}/api", timeout_seconds=20), client)
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        for run in client.read_flow_runs(flow_run_filter=ours):
            client.delete_flow_run(run.id)
    forget(name)


def test_crashed_retraining_is_resumed_twice(retraining: Retraining) -> None:
    """It is rescheduled a minute after the crash, as the same run, and once however many passes follow."""
    run = retraining.run(Running())
    for _ in range(2):
        retraining.set_states(run, Crashed(message="killed"))
        crashed = retraining.state(run).timestamp
        assert 1 == retraining.reschedule()
        state = retraining.state(run)
        assert ("AwaitingRetry", "resumes after: killed") == (state.name, state.message)
        assert crashed + timedelta(minutes=1) == state.state_details.scheduled_time
        assert 0 == retraining.reschedule()
        retraining.set_states(run, Running())
        assert 0 == retraining.reschedule()
    retraining.set_states(run, Crashed(message="killed"))
    assert 0 == retraining.reschedule()


def test_retraining_that_failed_by_infrastructure_is_resumed(retraining: Retraining) -> None:
    """MLflow or Prefect was unreachable, for instance; an error that a user has to fix stays FAILED."""
    errors: list[Exception] = [
        ValueError("InfrastructureError"),
        InfrastructureError("away"),
        httpx.ConnectError("away"),
    ]

    @flow
    @prefect_errors()
    def fail(index: int) -> None:
        raise errors[index]

    run = retraining.run(Running())
    for index, expected_count in enumerate((0, 1, 1)):
        retraining.set_states(run, Failed(message=fail(index, return_state=True).message))
        assert expected_count == retraining.reschedule()


@pytest.mark.parametrize(
    "states",
    [
        [Running(), Cancelling(), Crashed()],
        [Running(), Cancelling(), Crashed(), Cancelled()],
        [Running(), Completed()],
        [Running(), Failed(message="Flow run encountered an exception: DataError: no images")],
    ],
    ids=["cancelled, then crashed", "cancelled", "completed", "failed"],
)
def test_ended_run_is_not_resumed(states: list[State], retraining: Retraining) -> None:
    """Above all a run that a user cancelled, which Prefect calls CRASHED for some seconds."""
    retraining.run(*states)
    assert 0 == retraining.reschedule()


def test_run_rejected_by_the_concurrency_limit_does_not_prevent_resuming(retraining: Retraining) -> None:
    """The monitor may request a run while another is active: Prefect cancels that run."""
    run, second = retraining.run(), retraining.run()
    for flow_run, state in ((run, Pending()), (run, Running()), (second, Pending())):
        retraining.client.set_flow_run_state(flow_run.id, state)
    rejected = retraining.client.read_flow_run(second.id)
    assert "Cancelled" == rejected.state_name
    assert rejected.start_time is not None
    retraining.set_states(run, Crashed(message="killed"))
    assert 1 == retraining.reschedule()
    assert "AwaitingRetry" == retraining.state(run).name


def test_claimed_run_that_never_started_is_rescheduled(
    retraining: Retraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that claimed it died before its process started. It is retried twice, after a grace time."""
    run = retraining.run(Pending())
    assert 0 == retraining.reschedule()
    monkeypatch.setattr(prefect_api, "START_GRACE", timedelta(0))
    for _ in range(2):
        assert 1 == retraining.reschedule()
        assert ("AwaitingRetry", None) == (
            retraining.state(run).name,
            retraining.client.read_flow_run(run.id).start_time,
        )
        assert 0 == retraining.reschedule()
        retraining.set_states(run, Pending())
    assert 0 == retraining.reschedule()


def test_run_that_crashed_before_it_ran_is_resumed(retraining: Retraining) -> None:
    """Its worker died while Prefect prepared the process, for instance."""
    retraining.run(Pending(), Crashed())
    assert 1 == retraining.reschedule()


@pytest.mark.parametrize("later_state", [Running(), Completed(), Failed()], ids=lambda state: state.name)
def test_run_is_not_resumed_after_a_later_run(later_state: State, retraining: Retraining) -> None:
    """The run that started later has newer data."""
    retraining.run(Running(), Crashed())
    retraining.run(Running(), later_state)
    assert 0 == retraining.reschedule()


def test_no_run_is_resumed_while_another_is_active(retraining: Retraining) -> None:
    """The active run may have started before the crashed one."""
    first = retraining.run(Running(), Crashed())
    retraining.run(Running(), Crashed())
    retraining.set_states(first, AwaitingRetry(), Running())
    assert 0 == retraining.reschedule()


def test_claimed_run_waits_for_the_active_run(
    retraining: Retraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claimed run that never started is rescheduled once the active run has ended."""
    unstarted = retraining.run(Pending())
    running = retraining.run(Running())
    monkeypatch.setattr(prefect_api, "START_GRACE", timedelta(0))
    assert 0 == retraining.reschedule()
    retraining.set_states(running, Completed())
    assert 1 == retraining.reschedule()
    assert "AwaitingRetry" == retraining.state(unstarted).name


def test_old_interruption_is_not_resumed(retraining: Retraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is a day."""
    retraining.run(Running(), Crashed())
    monkeypatch.setattr(recovery, "MAX_AGE", timedelta(0))
    assert 0 == retraining.reschedule()


def test_run_that_is_open_in_mlflow_is_not_resumed(retraining: Retraining) -> None:
    """It is alive, although Prefect calls it CRASHED."""
    run = retraining.run(Running(), Crashed())
    assert 0 == retraining.reschedule(open_flow_run_ids=frozenset({str(run.id)}))
    assert 1 == retraining.reschedule()


@pytest.mark.slow
def test_crashed_run_with_heartbeat_is_not_resumed(
    retraining: Retraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run counts as dead once no heartbeat came for the grace time."""
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(seconds=8))
    run = retraining.run(Running(), Crashed())
    assert 0 == retraining.reschedule()
    time.sleep(8)
    crashed = retraining.server.get_flow_run(str(run.id))
    assert crashed
    assert retraining.server.is_finished(crashed)
    heartbeat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
    }
    httpx.post(f"{retraining.server.api_url}/events", json=[heartbeat]).raise_for_status()
    wait_for(lambda: not retraining.server.is_finished(crashed), "the heartbeat to be stored")
    assert 0 == retraining.reschedule()
    wait_for(lambda: retraining.server.is_finished(crashed), "the grace time to pass")
    assert 1 == retraining.reschedule()


def create_mlflow_run(home: Home, tags: dict[str, str]) -> Callable[[], str]:
    """Create a RUNNING run in MLflow with these tags; returns a function that reads its status."""
    client = connect(home)
    experiment = client.get_experiment_by_name("digits").experiment_id
    run = client.create_run(experiment, tags=tags)
    return lambda: str(client.get_run(run.info.run_id).info.status)


def test_one_worker_of_a_home_reconciles_at_a_time(retraining: Retraining, copied: Home) -> None:
    """The others skip the pass; a run that is open in MLflow is not resumed."""
    run = retraining.run(Running(), Crashed())
    with FileLock(copied.root / ".worker.lock"):
        recovery.reconcile(copied)
    assert "Crashed" == retraining.state(run).name

    status = create_mlflow_run(copied, process_identity.process_tags() | {FLOW_RUN_TAG: str(run.id)})
    recovery.reconcile(copied)
    assert ("Crashed", "RUNNING") == (retraining.state(run).name, status())

    connect(copied).set_terminated(find_running(connect(copied))[0].info.run_id, "KILLED")
    recovery.reconcile(copied)
    assert "AwaitingRetry" == retraining.state(run).name


def test_waiting_run_that_is_cancelled_ends(
    retraining: Retraining, copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is left to end it; a run with a process gets time to end."""
    run = retraining.run(Running(), Crashed(), AwaitingRetry())
    retraining.client.update_flow_run(run.id, infrastructure_pid="1")  # it had a process
    retraining.set_states(run, Cancelling())
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(seconds=45))
    recovery.reconcile(copied)
    assert "Cancelling" == retraining.state(run).name
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(0))
    recovery.reconcile(copied)
    assert "Cancelled" == retraining.state(run).name


def test_remote_run_that_ended_in_prefect_is_closed_in_mlflow(retraining: Retraining, copied: Home) -> None:
    """Runs that are active or unknown in Prefect stay open, and so do runs of this machine."""
    terminal_states = [Crashed(), Failed(), Cancelled(), Completed()]
    ended = [retraining.run(Running(), state) for state in terminal_states]
    running = retraining.run(Running())
    remote_tags = {process_identity.HOST_TAG: "gone", process_identity.PROCESS_TAG: "1@0"}
    closed = [create_mlflow_run(copied, remote_tags | {FLOW_RUN_TAG: str(run.id)}) for run in ended]
    still_open = [
        create_mlflow_run(copied, remote_tags | {FLOW_RUN_TAG: str(running.id)}),
        create_mlflow_run(copied, remote_tags | {FLOW_RUN_TAG: str(uuid4())}),
        create_mlflow_run(copied, remote_tags),
        create_mlflow_run(copied, process_identity.process_tags() | {FLOW_RUN_TAG: str(ended[0].id)}),
    ]
    recovery.reconcile(copied)
    assert ["KILLED"] * 4 == [status() for status in closed]
    assert ["RUNNING"] * 4 == [status() for status in still_open]


def test_remote_run_that_locks_its_checkpoints_is_alive(retraining: Retraining, copied: Home) -> None:
    """Its run stays open and is not resumed, although Prefect got no heartbeat of it."""
    run = retraining.run(Running(), Crashed())
    status = create_mlflow_run(
        copied,
        {process_identity.HOST_TAG: "away", process_identity.PROCESS_TAG: "1@0", FLOW_RUN_TAG: str(run.id)},
    )
    (mlflow_run,) = find_running(connect(copied))
    with checkpoints.lock_folder(copied.checkpoints / mlflow_run.info.run_id):
        recovery.reconcile(copied)
    assert ("Crashed", "RUNNING") == (retraining.state(run).name, status())
    recovery.reconcile(copied)
    assert ("AwaitingRetry", "KILLED") == (retraining.state(run).name, status())


@pytest.mark.parametrize(
    ("state", "expected_state"),
    [(Running(), "Crashed"), (AwaitingRetry(), "AwaitingRetry"), (Failed(), "Failed")],
)
def test_only_an_active_run_crashes_with_its_process(
    state: State, expected_state: str, retraining: Retraining, copied: Home
) -> None:
    """A run that is rescheduled already stays so in Prefect; MLflow closes all of them."""
    run = retraining.run(Running(), state)
    status = create_mlflow_run(
        copied,
        {
            process_identity.HOST_TAG: socket.gethostname(),
            process_identity.PROCESS_TAG: "1@0",
            FLOW_RUN_TAG: str(run.id),
        },
    )
    recovery.close_orphaned_runs(copied)
    assert (expected_state, "KILLED") == (retraining.state(run).name, status())


def read_metrics(home: Home, name: str) -> dict[str, float]:
    """Read the metrics file of the worker; names without the prefix."""
    text = (home.prediction_log_dir(name) / WORKER_FILE).read_text()
    return {
        family.name.removeprefix("relearn_"): family.samples[0].value
        for family in text_string_to_metric_families(text)
    }


def test_metrics_describe_retraining(
    retraining: Retraining, copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have the schedule, the last result, the last success, the number of late runs, the disk."""
    name = retraining.name
    started_at = time.time()
    recovery.refresh_metrics(copied)
    metrics = read_metrics(copied, name)
    size = psutil.disk_usage(str(copied.root)).total
    assert started_at <= metrics.pop("worker_heartbeat_timestamp_seconds") <= time.time()
    assert size == metrics.pop("disk_size_bytes")
    assert 0 < metrics.pop("disk_free_bytes") < size
    assert {"retraining_scheduled": 1, "retraining_failed": 0, "retraining_late": 0} == metrics

    (schedule,) = retraining.client.read_deployment(retraining.id).schedules
    retraining.client.pause_deployment(retraining.id)
    recovery.refresh_metrics(copied)
    assert 0 == read_metrics(copied, name)["retraining_scheduled"]
    retraining.client.resume_deployment(retraining.id)
    retraining.client.update_deployment_schedule(retraining.id, schedule.id, active=False)
    completed = retraining.run(Running(), Completed())
    run = retraining.run(Running(), Crashed())
    recovery.refresh_metrics(copied)
    metrics = read_metrics(copied, name)
    ended_at = retraining.client.read_flow_run(completed.id).end_time
    assert ended_at is not None
    assert abs(ended_at.timestamp() - metrics["retraining_last_success_timestamp_seconds"]) < 0.01
    assert (0, 1) == (metrics["retraining_scheduled"], metrics["retraining_failed"])

    monkeypatch.setattr(prefect_api, "PICKUP_GRACE", timedelta(0))
    monkeypatch.setattr(recovery, "RETRY_DELAY", timedelta(0))
    assert 1 == retraining.reschedule()
    recovery.refresh_metrics(copied)
    metrics = read_metrics(copied, name)
    assert (0, 1) == (metrics["retraining_failed"], metrics["retraining_late"])
    retraining.set_states(run, Running(), Cancelled())
    recovery.refresh_metrics(copied)
    assert (0, 0) == (
        read_metrics(copied, name)["retraining_failed"],
        read_metrics(copied, name)["retraining_late"],
    )
