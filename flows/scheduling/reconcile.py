"""What a runner does beside the runs: it looks after those that were cut off, and tells how things stand."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from filelock import FileLock, Timeout

from relearn.flows.orchestration.prefect_api import JsonObject, PrefectApi, parse_time
from relearn.flows.scheduling import again, lost_runs
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.serving.metrics.textfile_metrics import WORKER_FILE, TextfileMetrics

INTERVAL_SECONDS = 20.0  # seconds between two looks
HTTP_TIMEOUT = 10.0  # seconds for an answer of Prefect's server; nobody waits for us


def run_forever(home: Home) -> None:
    """Look after the runs of `home`; who is away is asked again."""
    while True:
        for task in (close_orphaned_runs, reconcile, refresh_metrics):
            run_safely(task, home)
        time.sleep(INTERVAL_SECONDS)


def close_orphaned_runs(home: Home) -> None:
    """End the runs of this machine whose process is gone."""
    lost_runs.close_orphaned_local(connect(home), _connect_prefect(home))


def reconcile(home: Home) -> None:
    """See to the runs of every machine; one runner of the home at a time, the others pass over it."""
    with suppress(Timeout), FileLock(home.root / ".runner.lock", timeout=0):
        client, prefect_api = connect(home), _connect_prefect(home)
        lost_runs.close_orphaned_remote(client, prefect_api, home)
        lost_runs.finish_cancelling(prefect_api)
        for message in again.reschedule_interrupted(prefect_api, lost_runs.open_flow_runs(client)):
            print(message, flush=True)  # noqa: T201


def refresh_metrics(home: Home) -> None:
    """Leave numbers for Prometheus with the records of every name; every runner leaves the same."""
    server = _connect_prefect(home)
    for deployment in server.list_deployments():
        if deployment["flow_name"] == "retrain":
            TextfileMetrics(WORKER_FILE, gauges(home, server, deployment)).write(
                home.prediction_log_dir(deployment["name"])
            )


def gauges(home: Home, server: PrefectApi, deployment: JsonObject) -> dict[str, Mapping[str, float]]:
    """What Prefect knows of retraining one name, now.

    That there was nothing new to learn is a good end; one that somebody has cancelled is none.
    """
    done = server.find_last_ended(deployment, "COMPLETED")
    last = server.find_last_ended(deployment, "COMPLETED", "FAILED", "CRASHED")
    disk = shutil.disk_usage(home.root)
    values: dict[str, float] = {
        "relearn_worker_heartbeat_timestamp_seconds": time.time(),
        "relearn_retraining_scheduled": not deployment["paused"]
        and any(one["active"] for one in deployment["schedules"]),
        "relearn_retraining_failed": last is not None and last["state"]["type"] != "COMPLETED",
        "relearn_retraining_late": len(server.list_overdue_runs(deployment)),
        "relearn_disk_free_bytes": disk.free,
        "relearn_disk_size_bytes": disk.total,
    }
    if done:
        values["relearn_retraining_last_success_timestamp_seconds"] = parse_time(done["end_time"]).timestamp()
    return {name: {"": float(value)} for name, value in values.items()}


def _connect_prefect(home: Home) -> PrefectApi:
    return replace(PrefectApi.from_environment(home), timeout_seconds=HTTP_TIMEOUT)


def run_safely(task: Callable[[Home], None], home: Home) -> None:
    """Do it; what goes wrong is printed, for the next attempt may go well."""
    try:
        task(home)
    except Exception as error:
        print(f"{task.__name__}: {error}", flush=True)  # noqa: T201
