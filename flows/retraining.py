"""What Prefect knows of retraining each name, as numbers for Prometheus."""

import shutil
from collections.abc import Mapping
from time import time

from relearn.flows.prefect_server import PrefectServer, Row, moment
from relearn.model.home import Home
from relearn.serving.monitored import RUNNER, Monitored


def tell(home: Home, server: PrefectServer) -> None:
    """Leave them with the records of every name that a retraining is deployed for."""
    for deployment in server.deployments():
        if deployment["flow_name"] == "retrain":
            Monitored(RUNNER, gauges(home, server, deployment)).write(home.records(deployment["name"]))


def gauges(home: Home, server: PrefectServer, deployment: Row) -> dict[str, Mapping[str, float]]:
    """Those of one name, now.

    That there was nothing new to learn is a good end; one that somebody has cancelled is none.
    """
    done = server.last_ended(deployment, "COMPLETED")
    last = server.last_ended(deployment, "COMPLETED", "FAILED", "CRASHED")
    disk = shutil.disk_usage(home.root)
    values: dict[str, float] = {
        "relearn_runner_time_seconds": time(),
        "relearn_retraining_planned": not deployment["paused"]
        and any(one["active"] for one in deployment["schedules"]),
        "relearn_retraining_failed": last is not None and last["state"]["type"] != "COMPLETED",
        "relearn_retraining_late": len(server.untaken(deployment)),
        "relearn_home_free_bytes": disk.free,
        "relearn_home_size_bytes": disk.total,
    }
    if done:
        values["relearn_retraining_done_seconds"] = moment(done["end_time"]).timestamp()
    return {name: {"": float(value)} for name, value in values.items()}
