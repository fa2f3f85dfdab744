"""What a runner does beside the runs: it looks after those that were cut off, and tells how things stand."""

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from filelock import FileLock, Timeout

from relearn.flows import again, lost
from relearn.flows.prefect_server import PrefectServer, Row, moment
from relearn.flows.store import connect
from relearn.model.home import Home
from relearn.serving.monitored import RUNNER, Monitored

EVERY = 20.0  # seconds between two looks
PATIENCE = 10.0  # seconds for an answer of Prefect's server; nobody waits for us


def for_ever(home: Home) -> None:
    """Look after the runs of `home`; who is away is asked again."""
    while True:
        for task in (close, tend, tell):
            attempt(task, home)
        time.sleep(EVERY)


def close(home: Home) -> None:
    """End the runs of this machine whose process is gone."""
    lost.close_here(connect(home), _server(home))


def tend(home: Home) -> None:
    """See to the runs of every machine; one runner of the home at a time, the others pass over it."""
    with suppress(Timeout), FileLock(home.root / ".runner.lock", timeout=0):
        client, server = connect(home), _server(home)
        lost.close_elsewhere(client, server, home)
        lost.close_cancelled(server)
        for line in again.put_back(server, lost.not_closed(client)):
            print(line, flush=True)  # noqa: T201


def tell(home: Home) -> None:
    """Leave numbers for Prometheus with the records of every name; every runner leaves the same."""
    server = _server(home)
    for deployment in server.deployments():
        if deployment["flow_name"] == "retrain":
            Monitored(RUNNER, gauges(home, server, deployment)).write(home.records(deployment["name"]))


def gauges(home: Home, server: PrefectServer, deployment: Row) -> dict[str, Mapping[str, float]]:
    """What Prefect knows of retraining one name, now.

    That there was nothing new to learn is a good end; one that somebody has cancelled is none.
    """
    done = server.last_ended(deployment, "COMPLETED")
    last = server.last_ended(deployment, "COMPLETED", "FAILED", "CRASHED")
    disk = shutil.disk_usage(home.root)
    values: dict[str, float] = {
        "relearn_runner_time_seconds": time.time(),
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


def _server(home: Home) -> PrefectServer:
    return replace(PrefectServer.of(home), patience=PATIENCE)


def attempt(task: Callable[[Home], None], home: Home) -> None:
    """Do it; what goes wrong is printed, for the next attempt may go well."""
    try:
        task(home)
    except Exception as error:
        print(f"{task.__name__}: {error}", flush=True)  # noqa: T201
