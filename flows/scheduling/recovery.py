"""Retry interrupted runs, and close those whose process is gone.

A run is retried if it is a retraining that was killed, or failed with an `InfrastructureError`, or any run
that a worker claimed but never started: at most `MAX_RETRIES` times; a retraining not after `MAX_AGE`.
Whichever worker is free takes it. `run_forever` is a thread of every worker; it writes metrics too.
"""

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from relearn.flows import process_identity
from relearn.flows.orchestration.prefect_api import JsonObject, PrefectApi, parse_time
from relearn.flows.tracking.runs import FLOW_RUN_TAG, close_orphaned_run, find_orphaned_runs, find_running
from relearn.flows.tracking.store import Client, connect
from relearn.model.errors import InfrastructureError
from relearn.model.file_lock import try_locked
from relearn.model.home import Home
from relearn.model.training.checkpoints import is_locked
from relearn.serving.metrics.textfile_metrics import WORKER_FILE, TextfileMetrics

INTERVAL_SECONDS = 20.0  # between two passes
HTTP_TIMEOUT_SECONDS = 10.0  # for a response of Prefect's server; no user waits for it
MAX_RETRIES = 2  # a run that is killed each time, perhaps for want of memory, is not retried forever
RETRY_MESSAGE_PREFIX = "resumes after: "  # begins the message of each rescheduled state
MAX_AGE = timedelta(days=1)  # of an interruption; an older run is not resumed
RETRY_DELAY = timedelta(minutes=1)  # before each retry, for an unreachable server to come back


def run_forever(home: Home) -> None:
    """Run the tasks below every `INTERVAL_SECONDS`; one that fails prints its error, and is tried again."""
    while True:
        for task in (close_orphaned_runs, reconcile, refresh_metrics):
            log_exceptions(task, home)
        time.sleep(INTERVAL_SECONDS)


def log_exceptions(task: Callable[[Home], None], home: Home) -> None:
    """Run `task` and print its error: the next pass may succeed."""
    try:
        task(home)
    except Exception as error:
        _print(f"{task.__name__}: {error}")


def close_orphaned_runs(home: Home) -> None:
    """Close, in Prefect and in MLflow, the runs of this machine whose process is gone."""
    client, prefect_api = connect(home), _connect_prefect(home)
    for run in find_orphaned_runs(client):
        # Prefect first: a run that MLflow has closed is not found again.
        if flow_run_id := run.data.tags.get(FLOW_RUN_TAG):
            prefect_api.mark_crashed(flow_run_id, "its process is gone")
        close_orphaned_run(client, run)
        _print(f"closed {run.info.run_name}: its process is gone")


def reconcile(home: Home) -> None:
    """Close lost runs of other machines, and retry interrupted runs.

    One worker of the home does it at a time; the others skip the pass.
    """
    with try_locked(home.root / ".worker.lock") as is_free:
        if not is_free:
            return
        client, prefect_api = connect(home), _connect_prefect(home)
        close_orphaned_remote(client, prefect_api, home)
        finish_cancelling(prefect_api)
        for message in reschedule_interrupted(prefect_api, open_flow_runs(client)):
            _print(message)


def close_orphaned_remote(client: Client, prefect_api: PrefectApi, home: Home) -> None:
    """Close, in MLflow, runs of other machines that have ended in Prefect: the machine may never come back.

    A run that still locks its checkpoints is left open: it trains, and Prefect lost contact with it.
    """
    for run in find_running(client):
        flow_run_id = run.data.tags.get(FLOW_RUN_TAG)
        if flow_run_id and not process_identity.is_this_host(run.data.tags):
            flow_run = prefect_api.get_flow_run(flow_run_id)
            if (
                flow_run
                and prefect_api.is_finished(flow_run)
                and not is_locked(home.checkpoints / run.info.run_id)
            ):
                close_orphaned_run(client, run)
                _print(f"closed {run.info.run_name}: it has ended in Prefect")


def finish_cancelling(prefect_api: PrefectApi) -> None:
    """Mark runs stuck in CANCELLING as CANCELLED when no process is left to do it."""
    for deployment in prefect_api.list_deployments():
        for run in prefect_api.list_stuck_cancelling(deployment):
            prefect_api.mark_cancelled(run)
            _print(f"closed {run['name']}: it was cancelled, and no process runs it")


def open_flow_runs(client: Client) -> set[str]:
    """Return the ids of the flow runs whose MLflow run is RUNNING."""
    return {run.data.tags[FLOW_RUN_TAG] for run in find_running(client) if FLOW_RUN_TAG in run.data.tags}


def reschedule_interrupted(prefect_api: PrefectApi, open_flow_run_ids: Collection[str]) -> Iterator[str]:
    """Reschedule the interrupted runs of each deployment; yield a message for each.

    Candidates are runs that were claimed but never started, and the retraining of each model that started
    last. Cancelled runs are skipped, and so are deployments with an active run. Flow runs in
    `open_flow_run_ids` are not rescheduled: their MLflow run is open, so they may be alive.
    """
    for deployment in prefect_api.list_deployments():
        for run in _find_interrupted(prefect_api, deployment, open_flow_run_ids):
            if prefect_api.is_busy(deployment):
                break
            reason = run["state"]["message"] or run["state"]["name"]
            prefect_api.reschedule(
                run, parse_time(run["state"]["timestamp"]) + RETRY_DELAY, RETRY_MESSAGE_PREFIX + reason
            )
            yield f"{run['name']} {RETRY_MESSAGE_PREFIX}{reason}"


def _find_interrupted(
    prefect_api: PrefectApi, deployment: JsonObject, open_flow_run_ids: Collection[str]
) -> Iterator[JsonObject]:
    stuck_runs = prefect_api.list_stuck_pending(deployment)
    yield from (run for run in stuck_runs if _can_retry(prefect_api, run))
    run = prefect_api.find_last_started(deployment) if deployment["flow_name"] == "retrain" else None
    is_interrupted = (
        run
        and run["id"] not in open_flow_run_ids
        and _is_interrupted(run["state"])
        and prefect_api.is_finished(run)
    )
    if run and is_interrupted and _can_retry(prefect_api, run):
        yield run


def _can_retry(prefect_api: PrefectApi, run: JsonObject) -> bool:
    """Return whether the run was never cancelled and was retried fewer than `MAX_RETRIES` times."""
    states = prefect_api.list_states(run)
    is_cancelled = any(state["type"] in ("CANCELLING", "CANCELLED") for state in states)
    retry_count = sum((state["message"] or "").startswith(RETRY_MESSAGE_PREFIX) for state in states)
    return not is_cancelled and retry_count < MAX_RETRIES


def _is_interrupted(state: JsonObject) -> bool:
    is_infrastructure_failure = state["type"] == "FAILED" and f" {InfrastructureError.__name__}: " in (
        state["message"] or ""
    )
    is_recent = datetime.now(UTC) - parse_time(state["timestamp"]) < MAX_AGE
    return is_recent and (is_infrastructure_failure or state["type"] == "CRASHED")


def refresh_metrics(home: Home) -> None:
    """Write `worker.prom` beside the prediction log of every model; all workers write the same content."""
    prefect_api = _connect_prefect(home)
    for deployment in prefect_api.list_deployments():
        if deployment["flow_name"] == "retrain":
            TextfileMetrics(WORKER_FILE, build_metrics(home, prefect_api, deployment)).write(
                home.prediction_log_dir(deployment["name"])
            )


def build_metrics(
    home: Home, prefect_api: PrefectApi, deployment: JsonObject
) -> dict[str, Mapping[str, float]]:
    """Return the current metrics of the retraining of one model, by name and label value.

    A retraining that found nothing new to learn counts as completed; a cancelled one counts as neither
    completed nor failed.
    """
    last_completed = prefect_api.find_last_ended(deployment, "COMPLETED")
    last_ended = prefect_api.find_last_ended(deployment, "COMPLETED", "FAILED", "CRASHED")
    disk = shutil.disk_usage(home.root)
    values: dict[str, float] = {
        "relearn_worker_heartbeat_timestamp_seconds": time.time(),
        "relearn_retraining_scheduled": not deployment["paused"]
        and any(schedule["active"] for schedule in deployment["schedules"]),
        "relearn_retraining_failed": last_ended is not None and last_ended["state"]["type"] != "COMPLETED",
        "relearn_retraining_late": len(prefect_api.list_overdue_runs(deployment)),
        "relearn_disk_free_bytes": disk.free,
        "relearn_disk_size_bytes": disk.total,
    }
    if last_completed:
        ended_at = parse_time(last_completed["end_time"])
        values["relearn_retraining_last_success_timestamp_seconds"] = ended_at.timestamp()
    return {name: {"": float(value)} for name, value in values.items()}


def _connect_prefect(home: Home) -> PrefectApi:
    return replace(PrefectApi.from_environment(home), timeout_seconds=HTTP_TIMEOUT_SECONDS)


def _print(message: str) -> None:
    print(message, flush=True)  # noqa: T201
