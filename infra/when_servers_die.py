"""Take the servers of docker compose away one by one while a retraining runs, and write down what came of it.

`python -m infra.when_servers_die` takes about 25 minutes; everything is up with two workers and has a release
to serve, as infra/smoke.sh leaves it. It prints what it sees, checks it, and writes docs/when-servers-die.md.
ENGINE=podman where that runs the containers.
"""

import os
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx

from infra.alive import wait_for
from infra.engine import ENGINE, containers, engine
from infra.when_things_die import expect, say

ROOT = Path(__file__).parents[1]
API, PREFECT, MLFLOW = (f"http://127.0.0.1:{port}" for port in (3000, 4200, 5000))
AWAY = 60.0  # seconds
EPOCHS = 800  # one to two minutes of training on two cores: longer than a server is away
# Five: Prefect's server has to know, after it was away, who holds a place; it is asked every 225 seconds.
LONG = {"Prefect, for a minute": 2000}
CONFIG = {"dataset": "digits", "learning_rate": 0.001}
KILL = """
import os, psutil, sys
there = [one for one in psutil.process_iter(["cmdline"]) if one.pid not in (1, os.getpid())]
found = [one for one in there if sys.argv[1] in " ".join(one.info["cmdline"] or ())]
print(len(found))
for one in found[: int(sys.argv[2])]:
    one.kill()
"""
RUNS_IT = """
import psutil, sys
told = [one.info["environ"] or {} for one in psutil.process_iter(["environ"])]
print(sys.argv[1] in [one.get("PREFECT__FLOW_RUN_ID") for one in told])
"""

answers: list[int] = []
"""Statuses of what was asked of the API, ten times a second; 0 where nothing came."""


def kill_inside(container: str, words: str, most: int) -> int:
    """SIGKILL for processes whose command line has these words; returns how many there were."""
    return int(engine("exec", container, "python", "-c", KILL, words, str(most)))


Take = Callable[[str], float | None]
"""Takes something away from the run of this id; where it can tell, the moment from which all was well."""


def away(service: str) -> Take:
    def take(_: str) -> None:
        (container,) = containers(service)
        engine("stop", container)
        time.sleep(AWAY)
        engine("start", container)

    return take


def restarted(service: str) -> Take:
    def take(_: str) -> None:
        (container,) = containers(service)
        engine("restart", container)

    return take


def lose_the_worker(run: str) -> float:
    """The machine that trains is gone, and comes back when another has taken over."""
    workers = containers("worker")
    expect(2, len(workers))
    (training,) = (one for one in workers if "True" in engine("exec", one, "python", "-c", RUNS_IT, run))
    engine("stop", "-t", "0", training)
    wait_for(lambda: flow_run(run)["run_count"] == 2, "another worker to take over", 480)
    taken_over = time.time()
    engine("start", training)
    return taken_over


def kill_the_api(_: str) -> None:
    kill_inside(containers("api")[0], "relearn serve", 1)


def kill_one_of_two(_: str) -> None:
    expect(2, kill_inside(containers("api")[0], "_bentoml_impl.worker.service", 1))


FAULTS: dict[str, Take] = {
    "PostgreSQL, started again": restarted("postgres"),
    "PostgreSQL, for a minute": away("postgres"),
    "MLflow, for a minute": away("mlflow"),
    "Prefect, for a minute": away("prefect"),
    "the worker that trains, with its machine": lose_the_worker,
    "the API's container": kill_the_api,
    "one of the API's two workers": kill_one_of_two,
}


def main() -> None:
    threading.Thread(target=ask_for_ever, daemon=True).start()
    wait_for(lambda: 200 in answers, "a first answer")
    rows = [suffered(*one) for one in FAULTS.items()]
    time.sleep(60)
    expect([], running_in_mlflow())
    say("nothing stays running in MLflow")
    write(rows)


def suffered(what: str, take: Take) -> dict[str, str]:
    run = begin(LONG.get(what, EPOCHS))
    time.sleep(20)  # until it trains
    expect("RUNNING", state(run))
    asked, at, before = len(answers), time.time(), live()
    say(f"takes away {what}")
    down = wait_until_steady(take(run) or at) - at
    if state(run) != "COMPLETED":  # then another version may be live
        expect(before, live())
    wait_for(lambda: state(run) == "COMPLETED", "the retraining to end", 900)
    found = flow_run(run)
    failed = [status for status in answers[asked:] if status != 200]
    row = {
        "taken away": what,
        "all well after": f"{down:.0f} s",
        "the retraining that ran": f"{found['state_name']} after {time.time() - at:.0f} s, "
        f"attempt {found['run_count']}",
        "requests to the API": f"{len(answers) - asked:,} asked, {len(failed)} failed",
    }
    say(str(row))
    if "API" not in what:
        expect([], failed)
    return row


def begin(epochs: int) -> str:
    """A retraining through the queue; returns the id of its flow run, which runs."""
    client = httpx.Client(base_url=f"{PREFECT}/api", timeout=10)
    deployment = client.get("/deployments/name/retrain/digits").raise_for_status().json()["id"]
    config = CONFIG | {"epochs": epochs, "patience": epochs}
    asked = {"parameters": {"config": config, "networks": ["mlp"], "insist": True}}
    made = client.post(f"/deployments/{deployment}/create_flow_run", json=asked).raise_for_status()
    run = str(made.json()["id"])
    wait_for(lambda: state(run) in ("RUNNING", "CANCELLED"), "the retraining to begin", 240)
    if state(run) == "RUNNING":
        return run
    time.sleep(5)  # the watch has asked for another just before
    return begin(epochs)


def state(run: str) -> str:
    return str(flow_run(run)["state_type"])


def flow_run(run: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{PREFECT}/api/flow_runs/{run}", timeout=10).raise_for_status().json()
    return found


def wait_until_steady(since: float) -> float:
    """The moment from which everything answers, for a while; not before `since`."""
    down = since

    def steady() -> bool:
        nonlocal down
        if not well():
            down = time.time()
        return time.time() - down > 6

    wait_for(steady, "everything to be well again")
    return down


def well() -> bool:
    """The servers answer with their databases, and both workers of the API serve."""
    try:
        asked = [
            httpx.get(f"{PREFECT}/api/ready", timeout=3),
            httpx.get(f"{MLFLOW}/api/2.0/mlflow/experiments/get?experiment_id=0", timeout=3),
            metrics := httpx.get(f"{API}/metrics", headers=key(), timeout=3),
        ]
    except httpx.HTTPError:
        return False
    serving = [
        line.split()[-1] for line in metrics.text.splitlines() if line.startswith("relearn_workers_serving{")
    ]
    return all(one.is_success for one in asked) and sum(map(float, serving)) == 2


def live() -> str:
    return httpx.get(f"{API}/readyz", timeout=3).headers["x-relearn-version"]


def running_in_mlflow() -> list[str]:
    """Names of runs that it calls so."""
    by_name = httpx.get(f"{MLFLOW}/api/2.0/mlflow/experiments/get-by-name?experiment_name=digits", timeout=10)
    experiment = by_name.json()["experiment"]["experiment_id"]
    asked = {"experiment_ids": [experiment], "filter": "attributes.status = 'RUNNING'"}
    found = httpx.post(f"{MLFLOW}/api/2.0/mlflow/runs/search", json=asked, timeout=10).json()
    return [run["info"]["run_name"] for run in found.get("runs", [])]


def ask_for_ever() -> None:
    """An image ten times a second, each over a connection of its own, as somebody who needs answers would."""
    image = {"images": [[[0] * 28] * 28]}
    while True:
        try:
            answers.append(httpx.post(f"{API}/predict", json=image, headers=key(), timeout=5).status_code)
        except httpx.HTTPError:
            answers.append(0)
        time.sleep(0.1)


def key() -> dict[str, str]:
    return {"x-api-key": (ROOT / "secrets" / "client_key").read_text().strip()}


def write(rows: list[dict[str, str]]) -> None:
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    head = HEAD.format(today=date.today(), cores=os.cpu_count(), engine=ENGINE)
    (ROOT / "docs" / "when-servers-die.md").write_text(f"{head}\n{table}\n")


HEAD = """# When servers die

What the services of docker-compose.yml do when one of them is taken away while a retraining runs and the API
is asked ten times a second. Written by `python -m infra.when_servers_die`, last on {today}, on {cores} cores,
with two workers, the containers run by {engine}.

What is answered depends on nothing but the API's own container and its volumes. A retraining waits for a
server that is away or, where it was cut off, goes on from its last checkpoint, on whichever worker is there.
"""

if __name__ == "__main__":
    main()
