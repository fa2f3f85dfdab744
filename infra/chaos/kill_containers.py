"""Fault injection into docker compose: stops services one by one and writes down the recovery.

`python -m infra.chaos.kill_containers` takes about 25 minutes. It needs running services with two workers and
a release, as infra/smoke.sh leaves them. A retraining runs during each fault. The script prints and checks
what happens, and writes docs/reliability/servers.md. Set ENGINE=podman if podman runs the containers.
"""

import os
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from infra.chaos.containers import ENGINE, list_containers, run_engine
from infra.chaos.kill_processes import expect, print_time, to_markdown
from infra.chaos.temporary_stack import wait_for

ROOT = Path(__file__).parents[2]
API, PREFECT, MLFLOW = (f"http://127.0.0.1:{port}" for port in (3000, 4200, 5000))
DOWNTIME_SECONDS = 60.0
EPOCHS = 800  # one to two minutes of training on two cores: longer than the downtime
# Five minutes: after a downtime Prefect must still know its lease holders, who renew every 225 seconds.
LONGER_EPOCHS = {"Prefect, for a minute": 2000}
CONFIG = {"dataset": "digits", "learning_rate": 0.001}
KILL = """
import os, psutil, sys
others = [process for process in psutil.process_iter(["cmdline"]) if process.pid not in (1, os.getpid())]
matches = [process for process in others if sys.argv[1] in " ".join(process.info["cmdline"] or ())]
print(len(matches))
for process in matches[: int(sys.argv[2])]:
    process.kill()
"""
RUNS_FLOW = """
import psutil, sys
environments = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
print(sys.argv[1] in [environment.get("PREFECT__FLOW_RUN_ID") for environment in environments])
"""

statuses: list[int] = []
"""HTTP statuses of requests to the API, ten per second; 0 without a response."""


def kill_inside(container: str, words: str, max_count: int) -> int:
    """Send SIGKILL to up to `max_count` processes with `words` in their command line; return their number."""
    return int(run_engine("exec", container, "python", "-c", KILL, words, str(max_count)))


Fault = Callable[[str], float | None]
"""Injects a fault during the flow run of this id; returns the time of recovery if it knows it."""


def stop_for_a_minute(service: str) -> Fault:
    """Return a fault that stops a container for `DOWNTIME_SECONDS`."""

    def inject(_: str) -> None:
        (container,) = list_containers(service)
        run_engine("stop", container)
        time.sleep(DOWNTIME_SECONDS)
        run_engine("start", container)

    return inject


def restart(service: str) -> Fault:
    """Return a fault that restarts a container."""

    def inject(_: str) -> None:
        (container,) = list_containers(service)
        run_engine("restart", container)

    return inject


def stop_training_worker(run_id: str) -> float:
    """Stop the container that trains, and start it again after the other worker has taken over."""
    workers = list_containers("worker")
    expect(2, len(workers))
    (training,) = (
        worker
        for worker in workers
        if "True" in run_engine("exec", worker, "python", "-c", RUNS_FLOW, run_id)
    )
    run_engine("stop", "-t", "0", training)
    wait_for(lambda: get_run(run_id)["run_count"] == 2, "another worker to take over", 480)
    takeover_time = time.time()
    run_engine("start", training)
    return takeover_time


def kill_api(_: str) -> None:
    """Kill the main process of the API's container."""
    kill_inside(list_containers("api")[0], "relearn serve", 1)


def kill_one_of_two_workers(_: str) -> None:
    """Kill one worker process of the API."""
    expect(2, kill_inside(list_containers("api")[0], "_bentoml_impl.worker.service", 1))


FAULTS: dict[str, Fault] = {
    "PostgreSQL, restarted": restart("postgres"),
    "PostgreSQL, for a minute": stop_for_a_minute("postgres"),
    "MLflow, for a minute": stop_for_a_minute("mlflow"),
    "Prefect, for a minute": stop_for_a_minute("prefect"),
    "the worker that trains, with its machine": stop_training_worker,
    "the API's container": kill_api,
    "one of the API's two workers": kill_one_of_two_workers,
}


def main() -> None:
    """Inject each fault and write the table."""
    threading.Thread(target=send_requests_forever, daemon=True).start()
    wait_for(lambda: 200 in statuses, "a first prediction")
    rows = [run_fault(*fault) for fault in FAULTS.items()]
    time.sleep(60)
    expect([], list_running_in_mlflow())
    print_time("no run is left running in MLflow")
    write_report(rows)


def run_fault(description: str, inject: Fault) -> dict[str, str]:
    """Inject one fault during a retraining; return the recovery times as a row of the table."""
    run_id = start_retraining(LONGER_EPOCHS.get(description, EPOCHS))
    time.sleep(20)  # until training has started
    expect("RUNNING", get_state_type(run_id))
    request_count, fault_time, version = len(statuses), time.time(), get_version()
    print_time(f"injects: {description}")
    recovery_seconds = wait_until_steady(inject(run_id) or fault_time) - fault_time
    if get_state_type(run_id) != "COMPLETED":  # a completed retraining may release another version
        expect(version, get_version())
    wait_for(lambda: get_state_type(run_id) == "COMPLETED", "the retraining to end", 900)
    run = get_run(run_id)
    failed = [status for status in statuses[request_count:] if status != 200]
    row = {
        "stopped": description,
        "recovered after": f"{recovery_seconds:.0f} s",
        "retraining": f"{run['state_name']} after {time.time() - fault_time:.0f} s, "
        f"attempt {run['run_count']}",
        "requests to the API": f"{len(statuses) - request_count:,} sent, {len(failed)} failed",
    }
    print_time(str(row))
    if "API" not in description:
        expect([], failed)
    return row


def start_retraining(epochs: int) -> str:
    """Start a retraining through its Prefect deployment; wait until it runs, and return its flow run id."""
    client = httpx.Client(base_url=f"{PREFECT}/api", timeout=10)
    deployment = client.get("/deployments/name/retrain/digits").raise_for_status().json()["id"]
    config = CONFIG | {"epochs": epochs, "patience": epochs}
    body = {"parameters": {"config": config, "networks": ["mlp"], "force": True}}
    response = client.post(f"/deployments/{deployment}/create_flow_run", json=body).raise_for_status()
    run_id = str(response.json()["id"])
    wait_for(lambda: get_state_type(run_id) in ("RUNNING", "CANCELLED"), "the retraining to begin", 240)
    if get_state_type(run_id) == "RUNNING":
        return run_id
    time.sleep(5)  # the monitor has just requested another retraining
    return start_retraining(epochs)


def get_state_type(run_id: str) -> str:
    """Return the state type of a flow run, e.g. RUNNING."""
    return str(get_run(run_id)["state_type"])


def get_run(run_id: str) -> dict[str, Any]:
    """Return the flow run with this id."""
    run: dict[str, Any] = httpx.get(f"{PREFECT}/api/flow_runs/{run_id}", timeout=10).raise_for_status().json()
    return run


def wait_until_steady(start_time: float) -> float:
    """Wait until all services are healthy for 6 s; return the time of the last failed check.

    Without a failed check that is `start_time`.
    """
    last_failure = start_time

    def is_steady() -> bool:
        nonlocal last_failure
        if not are_all_healthy():
            last_failure = time.time()
        return time.time() - last_failure > 6

    wait_for(is_steady, "the recovery of all services")
    return last_failure


def are_all_healthy() -> bool:
    """Check that Prefect and MLflow reach their databases and that both workers of the API serve."""
    try:
        responses = [
            httpx.get(f"{PREFECT}/api/ready", timeout=3),
            httpx.get(f"{MLFLOW}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=3),
            metrics := httpx.get(f"{API}/metrics", headers=read_api_key(), timeout=3),
        ]
    except httpx.HTTPError:
        return False
    serving = [
        line.split()[-1] for line in metrics.text.splitlines() if line.startswith("relearn_workers_serving{")
    ]
    return all(response.is_success for response in responses) and sum(map(float, serving)) == 2


def get_version() -> str:
    """Return the version that the API serves."""
    return httpx.get(f"{API}/readyz", timeout=3).headers["x-relearn-version"]


def list_running_in_mlflow() -> list[str]:
    """Return the names of the runs with status RUNNING in MLflow."""
    by_name = httpx.get(f"{MLFLOW}/api/2.0/mlflow/experiments/get-by-name?experiment_name=digits", timeout=10)
    experiment = by_name.json()["experiment"]["experiment_id"]
    query = {"experiment_ids": [experiment], "filter": "attributes.status = 'RUNNING'"}
    result = httpx.post(f"{MLFLOW}/api/2.0/mlflow/runs/search", json=query, timeout=10).json()
    return [run["info"]["run_name"] for run in result.get("runs", [])]


def send_requests_forever() -> None:
    """Request ten predictions per second, each over a new connection."""
    body = {"images": [[[0] * 28] * 28]}
    while True:
        try:
            response = httpx.post(f"{API}/predict", json=body, headers=read_api_key(), timeout=5)
            statuses.append(response.status_code)
        except httpx.HTTPError:
            statuses.append(0)
        time.sleep(0.1)


def read_api_key() -> dict[str, str]:
    """Return the header with the client's API key."""
    return {"x-api-key": (ROOT / "secrets" / "client_key").read_text().strip()}


def write_report(rows: list[dict[str, str]]) -> None:
    """Write docs/reliability/servers.md, one row for each fault."""
    head = HEAD.format(today=date.today(), cores=os.cpu_count(), engine=ENGINE)
    (ROOT / "docs" / "reliability" / "servers.md").write_text(f"{head}\n{to_markdown(rows)}\n")


HEAD = """# When servers die

Behavior of the services of docker-compose.yml when one of them is stopped during a retraining, with ten
requests per second to the API. Written by `python -m infra.chaos.kill_containers`, last on {today}, on
{cores} cores, with two workers; {engine} runs the containers.

Predictions depend only on the API's own container and its volumes. A retraining waits for an unavailable
server. An interrupted one resumes from its last checkpoint on any available worker.
"""

if __name__ == "__main__":
    main()
