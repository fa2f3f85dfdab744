"""Metrics of the retraining of each model, which every worker writes to `worker.prom` for Prometheus."""

import shutil
import time
from collections.abc import Mapping

from relearn.flows.orchestration.prefect_api import WORKER_TIMEOUT_SECONDS, JsonObject, PrefectApi, parse_time
from relearn.model.home import Home
from relearn.serving.metrics.textfile_metrics import WORKER_FILE, TextfileMetrics


def refresh_metrics(home: Home) -> None:
    """Write `worker.prom` beside the prediction log of every model; all workers write the same content."""
    prefect_api = PrefectApi.from_environment(home, WORKER_TIMEOUT_SECONDS)
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
