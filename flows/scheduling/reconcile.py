"""The reconciler: closes the runs whose process is gone, in Prefect and in MLflow, and retries them.

`recovery_policy` decides, this module asks and acts: when `relearn up` starts, in the rounds of every worker,
and before each command that runs a flow.
"""

import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from relearn.flows.orchestration.prefect_api import (
    OPEN_STATES,
    PROCESS_LABEL,
    WORKER_TIMEOUT_SECONDS,
    JsonObject,
    PrefectApi,
    parse_time,
)
from relearn.flows.process.temporary_files import remove_orphaned_folders
from relearn.flows.scheduling.recovery_policy import (
    MAX_AGE,
    RETRY_DELAY,
    RETRY_MESSAGE_PREFIX,
    History,
    RunRecord,
    Step,
    choose_step,
)
from relearn.flows.scheduling.worker_metrics import refresh_metrics
from relearn.flows.tracking.runs import FLOW_RUN_TAG, PROCESS_TAG, close_run, find_running
from relearn.flows.tracking.search import MlflowRun
from relearn.flows.tracking.store import Client, connect, mlflow_errors
from relearn.model.file_lock import try_locked
from relearn.model.home import Home
from relearn.model.process_identity import ProcessState, find_process
from relearn.model.training.checkpoints import is_locked, list_checkpoints

INTERVAL_SECONDS = 20.0  # between two rounds


def run_rounds(home: Home, stopped: threading.Event) -> None:
    """Reconcile the runs of `home` and refresh `worker.prom` until `stopped`, and once more then.

    An error is printed; the next round tries again.
    """
    is_last = False
    while True:
        for task in (_reconcile_and_print, refresh_metrics):
            try:
                task(home)
            except Exception as error:
                _print(f"{task.__name__.strip('_')}: {error}")
        if is_last:
            return
        is_last = stopped.wait(INTERVAL_SECONDS)


def _reconcile_and_print(home: Home) -> None:
    for message in reconcile(home, PrefectApi.from_environment(home, WORKER_TIMEOUT_SECONDS)):
        _print(message)


def reconcile(home: Home, prefect_api: PrefectApi) -> Iterator[str]:
    """Take the steps that are due for the runs of `home`; yield a message for each.

    One process of the home does it at a time; the others skip it.
    """
    with try_locked(home.root / ".reconcile.lock") as is_free, mlflow_errors(home.tracking_uri):
        if is_free:
            remove_orphaned_folders()
            reconciler = Reconciler(home, connect(home), prefect_api)
            for run in reconciler.list_runs():
                yield from reconciler.settle(run)


@dataclass(frozen=True)
class Run:
    """A run as Prefect and MLflow know it: a flow run with its open runs in MLflow, or either alone."""

    flow_run: JsonObject | None
    open_runs: list[MlflowRun] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.flow_run["name"] if self.flow_run else self.open_runs[0].info.run_name)


@dataclass(frozen=True)
class Reconciler:
    """The stores of a home, and what they say of its runs; `prefect_api` is None while no server runs."""

    home: Home
    client: Client
    prefect_api: PrefectApi | None

    def list_runs(self) -> list[Run]:
        """Return the runs that are open in Prefect or in MLflow, and the last interrupted retrainings."""
        flow_runs: dict[str, JsonObject | None] = {}
        if self.prefect_api:
            interrupted = self.prefect_api.list_interrupted_retrainings(datetime.now(UTC) - MAX_AGE)
            flow_runs = {run["id"]: run for run in [*self.prefect_api.list_open_runs(), *interrupted]}
        tracked, untracked = defaultdict[str, list[MlflowRun]](list), list[Run]()
        for run in find_running(self.client):
            if flow_run_id := run.data.tags.get(FLOW_RUN_TAG):
                tracked[flow_run_id].append(run)
            else:
                untracked.append(Run(None, [run]))
        for flow_run_id in set(tracked) - set(flow_runs):
            flow_runs[flow_run_id] = self._get_flow_run(flow_run_id)
        return [Run(flow_run, tracked[run_id]) for run_id, flow_run in flow_runs.items()] + untracked

    def settle(self, run: Run) -> Iterator[str]:
        """Take the steps for a run, each chosen by what the stores say after the last one; yield messages."""
        record, last_step = self.read_record(run), ""
        while (step := choose_step(record)) not in ("leave", last_step):
            yield f"{run.name}: {self._take(step, run)}"
            run, last_step = self._read_again(run), step
            record = self.read_record(run)
        if last_step and record.history and (refusal := record.history.refuse_retry()):
            yield f"{run.name}: not resumed, {refusal}"

    def read_record(self, run: Run) -> RunRecord:
        """Ask Prefect, MLflow and the machine for what decides about the next step."""
        flow_run = run.flow_run
        if flow_run is None:
            return RunRecord("", self._find_process(run), is_open_in_mlflow=bool(run.open_runs))
        state, process, now = flow_run["state"], self._find_process(run), datetime.now(UTC)
        changed_at = parse_time(state["timestamp"])
        heartbeat = None
        if process == "unseen" and self.prefect_api:
            heartbeat = self.prefect_api.find_last_heartbeat(flow_run)
        # The state of a run that has ended may be set by others than its process.
        signs = [changed_at] if state["type"] in OPEN_STATES or not heartbeat else []
        record = RunRecord(
            state["type"],
            process,
            now - max([*signs, *filter(None, [heartbeat])]),
            state["message"] or "",
            bool(run.open_runs),
        )
        if not (record.is_gone and record.is_interrupted and self.prefect_api):
            return record
        if flow_run["flow_id"] != self.prefect_api.find_flow_id("retrain") or not flow_run["deployment_id"]:
            return record
        last_begun = self.prefect_api.find_last_begun(flow_run["deployment_id"])
        return replace(
            record,
            history=History(
                [(row["type"], row["message"] or "") for row in self.prefect_api.list_states(flow_run)],
                bool(last_begun and flow_run["run_count"] and last_begun["id"] != flow_run["id"]),
                now - changed_at,
            ),
            is_deployment_busy=self.prefect_api.is_busy(flow_run["deployment_id"]),
        )

    def _find_process(self, run: Run) -> ProcessState:
        """Return the state of the process behind a run; a training that locks its checkpoints is alive."""
        labels = run.flow_run["labels"] if run.flow_run else {}
        tags = [mlflow_run.data.tags for mlflow_run in run.open_runs]
        identities = [labels.get(PROCESS_LABEL), *(tag.get(PROCESS_TAG) for tag in tags)]
        states = [find_process(identity) for identity in identities if identity]
        folders = (self.home.checkpoints / mlflow_run.info.run_id for mlflow_run in run.open_runs)
        if "alive" in states or any(map(is_locked, folders)):
            return "alive"
        return states[0] if states else "unseen"

    def _take(self, step: Step, run: Run) -> str:
        """Take a step; return what was done."""
        if step == "close":
            for mlflow_run in run.open_runs:
                close_run(self.client, mlflow_run)
                folder = self.home.checkpoints / mlflow_run.info.run_id
                if not list_checkpoints(folder):  # it was killed before the first one
                    shutil.rmtree(folder, ignore_errors=True)
            return "closed in MLflow, its process is gone"
        if self.prefect_api is None or run.flow_run is None:
            raise ValueError(f"{step}: Prefect does not know {run.name}")
        state = run.flow_run["state"]
        if step == "retry":
            message = f"{RETRY_MESSAGE_PREFIX}{state['message'] or state['name']}"
            self.prefect_api.reschedule(run.flow_run, parse_time(state["timestamp"]) + RETRY_DELAY, message)
            return message
        reason = "no process has begun it" if state["type"] == "PENDING" else "its process is gone"
        self.prefect_api.end_run(run.flow_run, "CANCELLED" if step == "cancel" else "CRASHED", reason)
        return f"closed in Prefect, {reason}"

    def _read_again(self, run: Run) -> Run:
        """Return the run as the stores know it now."""
        open_runs = [self.client.get_run(open_run.info.run_id) for open_run in run.open_runs]
        return Run(
            self._get_flow_run(run.flow_run["id"]) if run.flow_run else None,
            [open_run for open_run in open_runs if open_run.info.status == "RUNNING"],
        )

    def _get_flow_run(self, flow_run_id: str) -> JsonObject | None:
        return self.prefect_api.get_flow_run(flow_run_id) if self.prefect_api else None


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201
