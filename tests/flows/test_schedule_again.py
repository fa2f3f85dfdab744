"""Retrainings that were cut off, and what the runner makes of them: a real Prefect server, a real MLflow."""

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

from infra.chaos.local_stack import wait_for
from relearn.flows import process_identity
from relearn.flows.config import PromotionConfig
from relearn.flows.orchestration import prefect_api
from relearn.flows.orchestration.connect import prefect_errors
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import again, deployments, lost_runs, reconcile
from relearn.flows.tracking.runs import FLOW_RUN_TAG
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
    """The deployment of a name of this test's own; `server` is where it stands, `client` changes it."""

    name: str
    id: UUID
    server: PrefectApi
    client: SyncPrefectClient

    def run(self, *states: State) -> FlowRun:
        """A run that has been all of these, one after the other."""
        found = self.client.create_flow_run_from_deployment(self.id)
        self.be(found, *states)
        return found

    def be(self, run: FlowRun, *states: State) -> None:
        for state in states:
            self.client.set_flow_run_state(run.id, state, force=True)

    def state(self, run: FlowRun) -> State:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def put_back(self, not_closed: frozenset[str] = frozenset()) -> int:
        """How many of its runs are put back."""
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[self.id]))
        names = tuple(run.name for run in self.client.read_flow_runs(flow_run_filter=ours))
        return sum(line.startswith(names) for line in again.reschedule_interrupted(self.server, not_closed))


@pytest.fixture
def retraining_of(on_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Retraining]:
    """Where it takes no time to be certain that a run is dead."""
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(0))
    monkeypatch.setenv("PREFECT_API_URL", f"{on_server}/api")
    name = f"again-{uuid4().hex[:8]}"
    deployments.schedule_retraining(name, "0 3 1 1 *", "UTC", QUICK, ("mlp",), PromotionConfig(), False)
    with get_client(sync_client=True) as client:
        found = deployments.find_deployment(client, retrain, name)
        assert found is not None
        yield Retraining(name, found.id, PrefectApi(f"{on_server}/api", timeout_seconds=20), client)
        ours = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[found.id]))
        for run in client.read_flow_runs(flow_run_filter=ours):
            client.delete_flow_run(run.id)
    forget(name)


def test_a_crashed_retraining_goes_on_twice(retraining_of: Retraining) -> None:
    """A minute after it crashed, as the same run; and no look puts it back that comes meanwhile."""
    run = retraining_of.run(Running())
    for _ in range(2):
        retraining_of.be(run, Crashed(message="killed"))
        crashed = retraining_of.state(run).timestamp
        assert 1 == retraining_of.put_back()
        state = retraining_of.state(run)
        assert ("AwaitingRetry", "goes on after: killed") == (state.name, state.message)
        assert crashed + timedelta(minutes=1) == state.state_details.scheduled_time
        assert 0 == retraining_of.put_back()
        retraining_of.be(run, Running())
        assert 0 == retraining_of.put_back()
    retraining_of.be(run, Crashed(message="killed"))
    assert 0 == retraining_of.put_back()


def test_where_a_machine_failed_it_goes_on(retraining_of: Retraining) -> None:
    """MLflow or Prefect was away, for instance; what a person has to mend stays failed."""
    errors: list[Exception] = [
        ValueError("MachineError"),
        InfrastructureError("away"),
        httpx.ConnectError("away"),
    ]

    @flow
    @prefect_errors()
    def fail(which: int) -> None:
        raise errors[which]

    run = retraining_of.run(Running())
    for which, times in enumerate((0, 1, 1)):
        retraining_of.be(run, Failed(message=fail(which, return_state=True).message))
        assert times == retraining_of.put_back()


@pytest.mark.parametrize(
    "states",
    [
        [Running(), Cancelling(), Crashed()],
        [Running(), Cancelling(), Crashed(), Cancelled()],
        [Running(), Completed()],
        [Running(), Failed(message="Flow run encountered an exception: DataError: no images")],
    ],
    ids=["cancelled, and crashed of it", "cancelled", "completed", "failed"],
)
def test_what_is_over_stays_over(states: list[State], retraining_of: Retraining) -> None:
    """Above all what a person has cancelled, which Prefect calls crashed for some seconds."""
    retraining_of.run(*states)
    assert 0 == retraining_of.put_back()


def test_one_that_was_turned_away_takes_no_place(retraining_of: Retraining) -> None:
    """The watch may ask for one while another is under way: Prefect cancels it, and the other goes on."""
    run, second = retraining_of.run(), retraining_of.run()
    for which, state in ((run, Pending()), (run, Running()), (second, Pending())):
        retraining_of.client.set_flow_run_state(which.id, state)
    turned_away = retraining_of.client.read_flow_run(second.id)
    assert "Cancelled" == turned_away.state_name
    assert turned_away.start_time is not None
    retraining_of.be(run, Crashed(message="killed"))
    assert 1 == retraining_of.put_back()
    assert "AwaitingRetry" == retraining_of.state(run).name


def test_what_was_taken_and_never_began_is_due_again(
    retraining_of: Retraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner that took it died before its process began; twice, and not while it may only be slow."""
    run = retraining_of.run(Pending())
    assert 0 == retraining_of.put_back()
    monkeypatch.setattr(prefect_api, "START_GRACE", timedelta(0))
    for _ in range(2):
        assert 1 == retraining_of.put_back()
        assert ("AwaitingRetry", None) == (
            retraining_of.state(run).name,
            retraining_of.client.read_flow_run(run.id).start_time,
        )
        assert 0 == retraining_of.put_back()
        retraining_of.be(run, Pending())
    assert 0 == retraining_of.put_back()


def test_what_died_before_it_ran_goes_on(retraining_of: Retraining) -> None:
    """While Prefect prepared its process, for instance."""
    retraining_of.run(Pending(), Crashed())
    assert 1 == retraining_of.put_back()


@pytest.mark.parametrize("other", [Running(), Completed(), Failed()], ids=lambda state: state.name)
def test_a_later_one_takes_its_place(other: State, retraining_of: Retraining) -> None:
    """What began after it has the newer data."""
    retraining_of.run(Running(), Crashed())
    retraining_of.run(Running(), other)
    assert 0 == retraining_of.put_back()


def test_no_second_one_beside_one_that_runs(retraining_of: Retraining) -> None:
    """Not even where the one that runs began before it."""
    first = retraining_of.run(Running(), Crashed())
    retraining_of.run(Running(), Crashed())
    retraining_of.be(first, AwaitingRetry(), Running())
    assert 0 == retraining_of.put_back()


def test_nor_one_that_never_began(retraining_of: Retraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place was given to the one that runs."""
    never = retraining_of.run(Pending())
    running = retraining_of.run(Running())
    monkeypatch.setattr(prefect_api, "START_GRACE", timedelta(0))
    assert 0 == retraining_of.put_back()
    retraining_of.be(running, Completed())
    assert 1 == retraining_of.put_back()
    assert "AwaitingRetry" == retraining_of.state(never).name


def test_an_old_one_is_left(retraining_of: Retraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day nobody waits for it."""
    retraining_of.run(Running(), Crashed())
    monkeypatch.setattr(again, "MAX_AGE", timedelta(0))
    assert 0 == retraining_of.put_back()


def test_one_that_lives_is_let_be(retraining_of: Retraining) -> None:
    """Though Prefect calls it crashed, for MLflow has it open."""
    run = retraining_of.run(Running(), Crashed())
    assert 0 == retraining_of.put_back(not_closed=frozenset({str(run.id)}))
    assert 1 == retraining_of.put_back()


@pytest.mark.slow
def test_one_that_is_heard_of_is_let_be(retraining_of: Retraining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is silent, or was never heard of though it had the time."""
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(seconds=8))
    run = retraining_of.run(Running(), Crashed())
    assert 0 == retraining_of.put_back()
    time.sleep(8)
    crashed = retraining_of.server.get_flow_run(str(run.id))
    assert crashed
    assert retraining_of.server.is_finished(crashed)
    beat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
    }
    httpx.post(f"{retraining_of.server.api_url}/events", json=[beat]).raise_for_status()
    wait_for(lambda: not retraining_of.server.is_finished(crashed), "the beat to be told")
    assert 0 == retraining_of.put_back()
    wait_for(lambda: retraining_of.server.is_finished(crashed), "silence")
    assert 1 == retraining_of.put_back()


def tracked(home: Home, tags: dict[str, str]) -> Callable[[], str]:
    """An open run in MLflow with these tags; tells its state."""
    client = connect(home)
    experiment = client.get_experiment_by_name("digits").experiment_id
    run = client.create_run(experiment, tags=tags)
    return lambda: str(client.get_run(run.info.run_id).info.status)


def test_two_runners_do_not_look_at_once(retraining_of: Retraining, copied: Home) -> None:
    """While one of the home is at it the others pass over it; what MLflow has not closed is let be."""
    run = retraining_of.run(Running(), Crashed())
    with FileLock(copied.root / ".runner.lock"):
        reconcile.reconcile(copied)
    assert "Crashed" == retraining_of.state(run).name

    status = tracked(copied, process_identity.process_tags() | {FLOW_RUN_TAG: str(run.id)})
    reconcile.reconcile(copied)
    assert ("Crashed", "RUNNING") == (retraining_of.state(run).name, status())

    connect(copied).set_terminated(lost_runs.find_running(connect(copied))[0].info.run_id, "KILLED")
    reconcile.reconcile(copied)
    assert "AwaitingRetry" == retraining_of.state(run).name


def test_what_is_cancelled_while_it_waits_is_over(
    retraining_of: Retraining, copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is there that could end it; one that has a process has time to end."""
    run = retraining_of.run(Running(), Crashed(), AwaitingRetry())
    retraining_of.client.update_flow_run(run.id, infrastructure_pid="1")  # it had a process
    retraining_of.be(run, Cancelling())
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(seconds=45))
    reconcile.reconcile(copied)
    assert "Cancelling" == retraining_of.state(run).name
    monkeypatch.setattr(prefect_api, "HEARTBEAT_GRACE", timedelta(0))
    reconcile.reconcile(copied)
    assert "Cancelled" == retraining_of.state(run).name


def test_runs_of_another_machine_are_closed_where_prefect_calls_them_over(
    retraining_of: Retraining, copied: Home
) -> None:
    """Not those that run, nor those that Prefect has never heard of; and none of this machine."""
    ends = [Crashed(), Failed(), Cancelled(), Completed()]
    over = [retraining_of.run(Running(), state) for state in ends]
    running = retraining_of.run(Running())
    away = {process_identity.HOST_TAG: "gone", process_identity.PROCESS_TAG: "1@0"}
    closed = [tracked(copied, away | {FLOW_RUN_TAG: str(run.id)}) for run in over]
    left = [
        tracked(copied, away | {FLOW_RUN_TAG: str(running.id)}),
        tracked(copied, away | {FLOW_RUN_TAG: str(uuid4())}),
        tracked(copied, away),
        tracked(copied, process_identity.process_tags() | {FLOW_RUN_TAG: str(over[0].id)}),
    ]
    reconcile.reconcile(copied)
    assert ["KILLED"] * 4 == [status() for status in closed]
    assert ["RUNNING"] * 4 == [status() for status in left]


def test_who_still_holds_its_checkpoints_lives(retraining_of: Retraining, copied: Home) -> None:
    """On another machine, too, that Prefect has not heard of: its run stays open, and nobody takes it."""
    run = retraining_of.run(Running(), Crashed())
    status = tracked(
        copied,
        {process_identity.HOST_TAG: "away", process_identity.PROCESS_TAG: "1@0", FLOW_RUN_TAG: str(run.id)},
    )
    (found,) = lost_runs.find_running(connect(copied))
    with checkpoints.lock_folder(copied.checkpoints / found.info.run_id):
        reconcile.reconcile(copied)
    assert ("Crashed", "RUNNING") == (retraining_of.state(run).name, status())
    reconcile.reconcile(copied)
    assert ("AwaitingRetry", "KILLED") == (retraining_of.state(run).name, status())


@pytest.mark.parametrize(
    ("state", "then"), [(Running(), "Crashed"), (AwaitingRetry(), "AwaitingRetry"), (Failed(), "Failed")]
)
def test_only_a_run_that_is_under_way_is_crashed_with_its_process(
    state: State, then: str, retraining_of: Retraining, copied: Home
) -> None:
    """One that waits for another process, put back by somebody, goes on waiting; MLflow closes all alike."""
    run = retraining_of.run(Running(), state)
    status = tracked(
        copied,
        {
            process_identity.HOST_TAG: socket.gethostname(),
            process_identity.PROCESS_TAG: "1@0",
            FLOW_RUN_TAG: str(run.id),
        },
    )
    reconcile.close_orphaned_runs(copied)
    assert (then, "KILLED") == (retraining_of.state(run).name, status())


def gauges(home: Home, name: str) -> dict[str, float]:
    """What the runner has left, without the prefix."""
    text = (home.prediction_log_dir(name) / WORKER_FILE).read_text()
    return {
        family.name.removeprefix("relearn_"): family.samples[0].value
        for family in text_string_to_metric_families(text)
    }


def test_prometheus_is_told_how_retraining_stands(
    retraining_of: Retraining, copied: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned or not, what the last one came to, when one ended well, how many wait, how full the disk is."""
    name = retraining_of.name
    began = time.time()
    reconcile.refresh_metrics(copied)
    told = gauges(copied, name)
    size = psutil.disk_usage(str(copied.root)).total
    assert began <= told.pop("worker_heartbeat_timestamp_seconds") <= time.time()
    assert size == told.pop("disk_size_bytes")
    assert 0 < told.pop("disk_free_bytes") < size
    assert {"retraining_scheduled": 1, "retraining_failed": 0, "retraining_late": 0} == told

    (planned,) = retraining_of.client.read_deployment(retraining_of.id).schedules
    retraining_of.client.pause_deployment(retraining_of.id)
    reconcile.refresh_metrics(copied)
    assert 0 == gauges(copied, name)["retraining_scheduled"]
    retraining_of.client.resume_deployment(retraining_of.id)
    retraining_of.client.update_deployment_schedule(retraining_of.id, planned.id, active=False)
    done = retraining_of.run(Running(), Completed())
    run = retraining_of.run(Running(), Crashed())
    reconcile.refresh_metrics(copied)
    told = gauges(copied, name)
    ended = retraining_of.client.read_flow_run(done.id).end_time
    assert ended is not None
    assert abs(ended.timestamp() - told["retraining_last_success_timestamp_seconds"]) < 0.01
    assert (0, 1) == (told["retraining_scheduled"], told["retraining_failed"])

    monkeypatch.setattr(prefect_api, "PICKUP_GRACE", timedelta(0))
    monkeypatch.setattr(again, "RETRY_DELAY", timedelta(0))
    assert 1 == retraining_of.put_back()
    reconcile.refresh_metrics(copied)
    told = gauges(copied, name)
    assert (0, 1) == (told["retraining_failed"], told["retraining_late"])
    retraining_of.be(run, Running(), Cancelled())
    reconcile.refresh_metrics(copied)
    assert (0, 0) == (gauges(copied, name)["retraining_failed"], gauges(copied, name)["retraining_late"])
