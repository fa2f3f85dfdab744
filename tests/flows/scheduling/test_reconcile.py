"""Runs whose process is gone, reconciled with a real Prefect server and a real MLflow."""

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
    Paused,
    Pending,
    Running,
    State,
)
from prometheus_client.parser import text_string_to_metric_families

from infra.chaos.temporary_stack import wait_for
from relearn.flows.config import PromotionConfig
from relearn.flows.orchestration import prefect_api
from relearn.flows.orchestration.connect import prefect_errors
from relearn.flows.orchestration.prefect_api import FLOWS, PROCESS_LABEL, PrefectApi
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import deployments, recovery_policy, worker_metrics
from relearn.flows.scheduling import reconcile as reconcile_module
from relearn.flows.scheduling.reconcile import Reconciler, reconcile
from relearn.flows.tracking.runs import FLOW_RUN_TAG, PROCESS_TAG, close_run, find_running
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.errors import InfrastructureError
from relearn.model.home import Home
from relearn.model.ports import find_free_port
from relearn.model.process_identity import identify_process
from relearn.model.training import checkpoints
from relearn.serving.metrics.textfile_metrics import WORKER_FILE
from tests.flows.conftest import forget

QUICK = TrainConfig.parse({"dataset": "digits", "epochs": 2})
ALIVE = identify_process()
GONE = f"{ALIVE.rpartition('@')[0]}@1"  # another process had the id of this one
UNSEEN = f"elsewhere{ALIVE}"


@dataclass(frozen=True)
class Stores:
    """The deployment of this test, whose runs `client` changes, and the runs of its home in MLflow."""

    name: str
    id: UUID
    server: PrefectApi
    client: SyncPrefectClient
    home: Home

    def run(self, *states: State, process: str = GONE) -> FlowRun:
        """Create a run of `process` that has passed through these states."""
        run = self.client.create_flow_run_from_deployment(self.id)
        self.client.update_flow_run_labels(run.id, {PROCESS_LABEL: process})
        self.set_states(run, *states)
        return run

    def set_states(self, run: FlowRun, *states: State) -> None:
        for state in states:
            self.client.set_flow_run_state(run.id, state, force=True)

    def state(self, run: FlowRun) -> State:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def track(self, run_id: object, process: str = GONE) -> Callable[[], str]:
        """Create a RUNNING run of a flow run in MLflow; returns a function that reads its status."""
        client = connect(self.home)
        tags = {PROCESS_TAG: process} | ({FLOW_RUN_TAG: str(run_id)} if run_id else {})
        run = client.create_run("0", tags=tags)
        return lambda: str(client.get_run(run.info.run_id).info.status)

    def reconcile(self) -> list[str]:
        return list(reconcile(self.home, self.server))

    def count_resumed(self) -> int:
        """Reconcile; returns how many runs are due again."""
        return sum(": resumes after: " in message for message in self.reconcile())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home for this file: to create MLflow's database takes 3 s."""
    root = tmp_path_factory.mktemp("reconciled")
    return Home(root, root / "data")


@pytest.fixture
def stores(on_server: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    monkeypatch.setenv("PREFECT_API_URL", f"{on_server}/api")
    name = f"reconcile-{uuid4().hex[:8]}"
    deployments.schedule_retraining(name, "0 3 1 1 *", "UTC", QUICK, ("mlp",), PromotionConfig(), False)
    with get_client(sync_client=True) as client:
        deployment = deployments.find_deployment(client, retrain, name)
        assert deployment is not None
        yield Stores(name, deployment.id, PrefectApi(f"{on_server}/api", timeout_seconds=20), client, home)
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
        for run in client.read_flow_runs(flow_run_filter=ours):
            client.delete_flow_run(run.id)
    for mlflow_run in find_running(connect(home)):
        connect(home).set_terminated(mlflow_run.info.run_id)
    forget(name)


@pytest.mark.parametrize("state", [Running(), Paused(), Cancelling()], ids=lambda state: state.name)
def test_run_whose_process_is_gone_is_closed_everywhere(state: State, stores: Stores) -> None:
    """In Prefect and in MLflow, in one pass."""
    run = stores.run(Running(), state)
    status = stores.track(run.id)
    stores.reconcile()
    expected_state = "Cancelled" if state.is_cancelling() else "AwaitingRetry"
    assert (expected_state, "KILLED") == (stores.state(run).name, status())
    if not state.is_cancelling():
        assert "resumes after: its process is gone" == stores.state(run).message
    assert [] == stores.reconcile()


@pytest.mark.parametrize("process", [ALIVE, UNSEEN, ""], ids=["alive", "unseen", "unknown"])
@pytest.mark.parametrize(
    "state", [Pending(), Running(), Cancelling(), Paused(), Crashed()], ids=lambda state: state.name
)
def test_run_whose_process_may_be_alive_is_left(state: State, process: str, stores: Stores) -> None:
    """Prefect calls a living run CRASHED that it has lost contact with."""
    run = stores.run(Running(), state, process=process)
    status = stores.track(run.id, process)
    assert [] == stores.reconcile()
    assert (state.name, "RUNNING") == (stores.state(run).name, status())


@pytest.mark.parametrize("name", FLOWS)
def test_run_started_by_hand_is_closed_with_its_tasks(name: str, stores: Stores) -> None:
    """No deployment has it, and nothing is due again."""

    def create(collection: str, **values: str) -> str:
        response = httpx.post(f"{stores.server.api_url}/{collection}/", json=values).raise_for_status()
        return str(response.json()["id"])

    run_id = create("flow_runs", flow_id=create("flows", name=name))
    run = stores.client.read_flow_run(UUID(run_id))
    stores.client.update_flow_run_labels(run.id, {PROCESS_LABEL: GONE})
    stores.set_states(run, Running())
    task_id = create("task_runs", flow_run_id=run_id, task_key="work", dynamic_key="0")
    stores.client.set_task_run_state(UUID(task_id), Running(), force=True)
    status = stores.track(run.id)
    stores.reconcile()
    assert ("Crashed", "its process is gone") == (stores.state(run).name, stores.state(run).message)
    assert ("Crashed", "KILLED") == (stores.client.read_task_run(UUID(task_id)).state_name, status())
    assert [] == stores.reconcile()
    stores.client.delete_flow_run(run.id)


@pytest.mark.parametrize("step_count", [0, 1, 2])
def test_reconciler_that_dies_is_continued(step_count: int, stores: Stores) -> None:
    """After any of its steps; the next pass takes the others, in the same order."""
    run = stores.run(Running())
    status = stores.track(run.id)
    reconciler = Reconciler(stores.home, connect(stores.home), stores.server)
    (open_run,) = [other for other in reconciler.list_runs() if other.name == run.name]
    steps = reconciler.settle(open_run)
    for _ in range(step_count):
        next(steps)
    steps.close()
    states = {0: ("Running", "RUNNING"), 1: ("Crashed", "RUNNING"), 2: ("Crashed", "KILLED")}
    assert states[step_count] == (stores.state(run).name, status())
    assert 3 - step_count == len(stores.reconcile())
    assert ("AwaitingRetry", "KILLED") == (stores.state(run).name, status())


def test_run_is_closed_in_prefect_first(stores: Stores) -> None:
    """While Prefect is unreachable, nothing is closed: the run may be alive elsewhere."""
    status = stores.track(uuid4())
    with pytest.raises(httpx.ConnectError):
        list(reconcile(stores.home, PrefectApi(f"http://127.0.0.1:{find_free_port()}/api")))
    assert "RUNNING" == status()


@pytest.mark.parametrize("flow_run", [None, uuid4()], ids=["none", "unknown to Prefect"])
def test_run_of_mlflow_alone_is_closed(flow_run: UUID | None, stores: Stores) -> None:
    """An evaluation, or a run that was deleted in Prefect; not one whose process may be alive."""
    for process, expected in ((GONE, "KILLED"), (ALIVE, "RUNNING"), (UNSEEN, "RUNNING")):
        status = stores.track(flow_run, process)
        stores.reconcile()
        assert expected == status()
        flow_run = flow_run and uuid4()


def test_run_that_was_resumed_meanwhile_is_not_closed(stores: Stores) -> None:
    """Its process is another one than when it was found."""
    status = stores.track(None)
    (found,) = find_running(connect(stores.home))
    connect(stores.home).set_tag(found.info.run_id, PROCESS_TAG, ALIVE)
    close_run(connect(stores.home), found)
    assert "RUNNING" == status()


def test_crashed_retraining_is_resumed_twice(stores: Stores) -> None:
    """It is rescheduled a minute after the crash, as the same run, and once however many passes follow."""
    run = stores.run(Running())
    for _ in range(2):
        stores.set_states(run, Crashed(message="killed"))
        crashed = stores.state(run).timestamp
        assert 1 == stores.count_resumed()
        state = stores.state(run)
        assert ("AwaitingRetry", "resumes after: killed") == (state.name, state.message)
        assert crashed + timedelta(minutes=1) == state.state_details.scheduled_time
        assert 0 == stores.count_resumed()
        stores.set_states(run, Running())
    assert [
        f"{run.name}: closed in Prefect, its process is gone",
        f"{run.name}: not resumed, it was resumed 2 times",
    ] == stores.reconcile()
    assert 0 == stores.count_resumed()


def test_retraining_that_failed_by_infrastructure_is_resumed(stores: Stores) -> None:
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

    run = stores.run(Running())
    for index, expected_count in enumerate((0, 1, 1)):
        stores.set_states(run, Failed(message=fail(index, return_state=True).message))
        assert expected_count == stores.count_resumed()


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
def test_ended_run_is_not_resumed(states: list[State], stores: Stores) -> None:
    """Above all a run that a user cancelled, which Prefect calls CRASHED for some seconds."""
    stores.run(*states)
    assert 0 == stores.count_resumed()


def test_run_rejected_by_the_concurrency_limit_does_not_prevent_resuming(stores: Stores) -> None:
    """The monitor may request a run while another is active: Prefect cancels that run."""
    run, second = stores.run(), stores.run()
    for flow_run, state in ((run, Pending()), (run, Running()), (second, Pending())):
        stores.client.set_flow_run_state(flow_run.id, state)
    rejected = stores.client.read_flow_run(second.id)
    assert "Cancelled" == rejected.state_name
    assert rejected.start_time is not None
    stores.set_states(run, Crashed(message="killed"))
    assert 1 == stores.count_resumed()
    assert "AwaitingRetry" == stores.state(run).name


def test_claimed_run_that_never_began_is_closed(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried three times; then it is closed, and no longer keeps the next run from its place."""
    monkeypatch.setattr(recovery_policy, "CLAIM_GRACE", timedelta(0))
    run, rejected, next_run = stores.run(), stores.run(), stores.run()
    for attempt in range(3):
        stores.client.set_flow_run_state(run.id, Pending(), force=attempt > 0)  # takes the place
        assert (1 if attempt < 2 else 0) == stores.count_resumed()
    assert ("Crashed", "no process has begun it") == (stores.state(run).name, stores.state(run).message)
    stores.client.set_flow_run_state(next_run.id, Pending())
    assert "Pending" == stores.state(next_run).name
    stores.client.set_flow_run_state(rejected.id, Pending())
    assert "Cancelled" == stores.state(rejected).name


def test_run_claimed_by_an_unknown_worker_is_given_time(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of another machine, or one that died before it said who it is."""
    run = stores.run(Pending(), process=UNSEEN)
    assert 0 == stores.count_resumed()
    monkeypatch.setattr(recovery_policy, "CLAIM_TIMEOUT", timedelta(0))
    assert 0 == stores.count_resumed()
    assert "no process has begun it" == stores.state(run).message
    monkeypatch.setattr(recovery_policy, "HEARTBEAT_TIMEOUT", timedelta(0))
    assert 1 == stores.count_resumed()
    assert "resumes after: no process has begun it" == stores.state(run).message


def test_run_that_crashed_before_it_began_is_resumed(stores: Stores) -> None:
    """Its worker died while Prefect prepared the process, for instance."""
    stores.run(Pending(), Crashed())
    assert 1 == stores.count_resumed()


@pytest.mark.parametrize("later_state", [Running(), Completed(), Failed()], ids=lambda state: state.name)
def test_run_is_not_resumed_after_a_later_run(later_state: State, stores: Stores) -> None:
    """The run that started later has newer data."""
    stores.run(Running(), Crashed())
    stores.run(Running(), later_state, process=ALIVE)
    assert 0 == stores.count_resumed()


def test_no_run_is_resumed_while_another_is_open(stores: Stores) -> None:
    """The open run may have started before the crashed one, whose turn comes after it."""
    first = stores.run(Running(), Crashed(), process=ALIVE)
    run = stores.run(Running(), Crashed())
    stores.set_states(first, AwaitingRetry(), Pending())
    assert 0 == stores.count_resumed()
    stores.set_states(first, AwaitingRetry())
    assert 1 == stores.count_resumed()
    assert "AwaitingRetry" == stores.state(run).name


def test_old_interruption_is_not_resumed(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is a day."""
    stores.run(Running(), Crashed())
    monkeypatch.setattr(recovery_policy, "MAX_AGE", timedelta(0))
    assert 0 == stores.count_resumed()


@pytest.mark.slow
def test_unseen_process_is_gone_without_heartbeat(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last heartbeat counts, not the state."""
    monkeypatch.setattr(recovery_policy, "HEARTBEAT_TIMEOUT", timedelta(seconds=8))
    run = stores.run(Running(), process=UNSEEN)
    status = stores.track(run.id, UNSEEN)
    time.sleep(7)
    heartbeat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
    }
    httpx.post(f"{stores.server.api_url}/events", json=[heartbeat]).raise_for_status()
    row = stores.server.get_flow_run(str(run.id))
    assert row
    wait_for(lambda: stores.server.find_last_heartbeat(row), "the heartbeat to be stored")
    time.sleep(3)
    assert ([], "RUNNING") == (stores.reconcile(), status())
    time.sleep(6)
    assert 1 == stores.count_resumed()
    assert ("AwaitingRetry", "KILLED") == (stores.state(run).name, status())


def test_one_process_of_a_home_reconciles_at_a_time(stores: Stores) -> None:
    """The others skip the pass."""
    run = stores.run(Running(), Crashed())
    with FileLock(stores.home.root / ".reconcile.lock"):
        assert [] == stores.reconcile()
    assert "Crashed" == stores.state(run).name
    assert 1 == stores.count_resumed()


def test_run_of_another_machine_that_locks_its_checkpoints_is_alive(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run stays open and is not resumed, although Prefect got no heartbeat of it."""
    monkeypatch.setattr(recovery_policy, "HEARTBEAT_TIMEOUT", timedelta(0))
    run = stores.run(Running(), Crashed(), process=UNSEEN)
    status = stores.track(run.id, UNSEEN)
    (mlflow_run,) = find_running(connect(stores.home))
    with checkpoints.lock_folder(stores.home.checkpoints / mlflow_run.info.run_id):
        assert [] == stores.reconcile()
    assert ("Crashed", "RUNNING") == (stores.state(run).name, status())
    stores.reconcile()
    assert ("AwaitingRetry", "KILLED") == (stores.state(run).name, status())


def read_metrics(home: Home, name: str) -> dict[str, float]:
    """Read the metrics file of the worker; names without the prefix."""
    text = (home.prediction_log_dir(name) / WORKER_FILE).read_text()
    return {
        family.name.removeprefix("relearn_"): family.samples[0].value
        for family in text_string_to_metric_families(text)
    }


def test_metrics_describe_retraining(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the schedule, the last result, the last success, the number of late runs, the disk."""
    name = stores.name
    started_at = time.time()
    worker_metrics.refresh_metrics(stores.home)
    metrics = read_metrics(stores.home, name)
    size = psutil.disk_usage(str(stores.home.root)).total
    assert started_at <= metrics.pop("worker_heartbeat_timestamp_seconds") <= time.time()
    assert size == metrics.pop("disk_size_bytes")
    assert 0 < metrics.pop("disk_free_bytes") < size
    assert {"retraining_scheduled": 1, "retraining_failed": 0, "retraining_late": 0} == metrics

    (schedule,) = stores.client.read_deployment(stores.id).schedules
    stores.client.pause_deployment(stores.id)
    worker_metrics.refresh_metrics(stores.home)
    assert 0 == read_metrics(stores.home, name)["retraining_scheduled"]
    stores.client.resume_deployment(stores.id)
    stores.client.update_deployment_schedule(stores.id, schedule.id, active=False)
    completed = stores.run(Running(), Completed())
    run = stores.run(Running(), Crashed())
    worker_metrics.refresh_metrics(stores.home)
    metrics = read_metrics(stores.home, name)
    ended_at = stores.client.read_flow_run(completed.id).end_time
    assert ended_at is not None
    assert abs(ended_at.timestamp() - metrics["retraining_last_success_timestamp_seconds"]) < 0.01
    assert (0, 1) == (metrics["retraining_scheduled"], metrics["retraining_failed"])

    monkeypatch.setattr(prefect_api, "PICKUP_GRACE", timedelta(0))
    monkeypatch.setattr(reconcile_module, "RETRY_DELAY", timedelta(0))
    assert 1 == stores.count_resumed()
    worker_metrics.refresh_metrics(stores.home)
    metrics = read_metrics(stores.home, name)
    assert (0, 1) == (metrics["retraining_failed"], metrics["retraining_late"])
    stores.set_states(run, Running(), Cancelled())
    worker_metrics.refresh_metrics(stores.home)
    assert (0, 0) == (
        read_metrics(stores.home, name)["retraining_failed"],
        read_metrics(stores.home, name)["retraining_late"],
    )
