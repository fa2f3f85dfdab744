"""Fault injection into `relearn up`: kills its processes one by one and writes down the recovery.

`python -m infra.chaos.kill_processes` takes about half an hour. It prints and checks what happens, and writes
docs/reliability/processes.md.
"""

import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from sklearn.datasets import load_digits

from infra.chaos.temporary_stack import TemporaryStack, run_temporary_stack, wait_for

ROOT = Path(__file__).parents[2]
MODEL_NAME = "growing"
HEALTHY_SECONDS = 6.0  # all services must respond for this long


@dataclass
class Stack:
    """The running services; `responses` are time and status of requests to the API, ten per second."""

    local: TemporaryStack
    responses: list[tuple[float, int]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Folder that holds the home and the data."""
        return self.local.folder

    def query_prefect(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Return the objects of Prefect's API at `path` that match the filter `body`."""
        url = f"{self.local.url('prefect')}/api/{path}/filter"
        rows: list[dict[str, Any]] = httpx.post(url, json=body, timeout=10).raise_for_status().json()
        return rows

    def get_run(self, run_id: str) -> dict[str, Any]:
        """Return the flow run with this id."""
        return self.query_prefect("flow_runs", flow_runs={"id": {"any_": [run_id]}})[0]

    def list_retrainings(self) -> list[dict[str, Any]]:
        """Return the started retrainings, oldest first, without cancelled ones."""
        runs = self.query_prefect(
            "flow_runs", sort="EXPECTED_START_TIME_ASC", flows={"name": {"any_": ["retrain"]}}
        )
        return [run for run in runs if run["start_time"] and run["state_type"] != "CANCELLED"]

    def write_data(self, image_count: int) -> None:
        """Replace the data set atomically by one with `image_count` images."""
        pixels, labels = load_digits(return_X_y=True)
        content = io.BytesIO()
        # 8 × 8 pixels of 0 to 16, enlarged to 32 × 32 of 0 to 255
        images = np.kron(pixels.reshape(-1, 8, 8), np.ones((4, 4))) * 255 / 16
        np.savez(content, images=images[:image_count].astype(np.uint8), labels=labels[:image_count])
        temporary_file = self.home / "new.npz"
        temporary_file.write_bytes(content.getvalue())
        temporary_file.replace(self.home / "growing.npz")

    def schedule(self, *flags: str, epochs: int, cron: str = "*/2 * * * *") -> None:
        """Schedule retraining."""
        data = ("--dataset", f"npz:{self.home / 'growing.npz'}", "--network", "mlp")
        print(self.local.relearn("schedule", "--cron", cron, *data, "--epochs", str(epochs), *flags).strip())

    def unschedule(self) -> None:
        """Disable the schedule."""
        self.local.relearn("schedule", "--dataset", f"npz:{self.home / 'growing.npz'}", "--disable")

    def read_actions(self) -> list[str]:
        """Return the actions in the ledger."""
        output = self.local.relearn("history", "--model-name", MODEL_NAME, "--json")
        return [entry["action"] for entry in json.loads(output)]


def main() -> None:
    """Run the scheduled retrainings, then inject each fault, and write the table."""
    with tempfile.TemporaryDirectory() as folder, run_stack(Path(folder)) as stack:
        run_scheduled_retrainings(stack)
        rows = [run_fault(stack, *fault) for fault in FAULTS.items()]
        check_nothing_stays_running(stack)
    write_report(rows)


def run_scheduled_retrainings(stack: Stack) -> None:
    """Retrain on schedule: a weak first release, a better one, a skipped run, and a held candidate."""
    stack.write_data(1_000)
    print_timestamped("a weak config: one epoch, low learning rate")
    stack.schedule("--learning-rate", "0.001", "--momentum", "0.5", epochs=1)
    first = wait_ended(stack, 0)
    expect(("COMPLETED", None), (first["state_type"], first["state"]["message"]))
    print_timestamped(f"{first['name']}: {stack.read_actions()}")
    stack.schedule(epochs=15)
    second = wait_ended(stack, 1)
    print_timestamped(f"{second['name']}: {stack.read_actions()}")
    third = wait_ended(stack, 2)
    print_timestamped(f"{third['name']}: {third['state_name']}, {third['state']['message']}")
    expect("Skipped", third["state_name"])
    stack.write_data(1_010)
    fourth = wait_ended(stack, 3)
    print_timestamped(f"{fourth['name']} with ten more images: {stack.read_actions()}")
    expect(["hold", "promote", "promote"], sorted(stack.read_actions()))
    stack.unschedule()


def run_fault(stack: Stack, service: str, find_process: Callable[[Stack], psutil.Process]) -> dict[str, str]:
    """Kill one process during a retraining; return the recovery times as a row of the table."""
    run_count = len(stack.list_retrainings())
    stack.schedule("--force", "--learning-rate", "0.01", epochs=400, cron="* * * * *")
    wait_for(lambda: len(stack.list_retrainings()) > run_count, f"a retraining, before killing {service}")
    stack.unschedule()  # otherwise the next run would replace this one
    time.sleep(15)  # until training has started
    running = next(run for run in stack.list_retrainings() if run["state_type"] == "RUNNING")
    response_count, kill_time = len(stack.responses), time.time()
    find_process(stack).kill()
    print_timestamped(f"killed {service} during {running['name']}")
    recovery_seconds = wait_until_healthy(stack, service) - kill_time
    outcome = outcome_of(stack, running["id"], kill_time)
    failed = [status for _, status in stack.responses[response_count:] if status != 200]
    row = {
        "killed": service,
        "recovered after": f"{max(recovery_seconds, 0):.0f} s",
        "retraining": outcome,
        "requests to the API": f"{len(stack.responses) - response_count} sent, {len(failed)} failed",
    }
    print_timestamped(str(row))
    if service != "the API":
        expect(0, len(failed))
    for run in stack.list_retrainings():
        if run["state_type"] in ("RUNNING", "PENDING"):
            wait_final(stack, run["id"])
    return row


def check_nothing_stays_running(stack: Stack) -> None:
    """Check that neither Prefect nor MLflow has a run in state RUNNING."""
    time.sleep(30)
    expect([], [run["name"] for run in stack.list_retrainings() if run["state_type"] == "RUNNING"])
    output = stack.local.relearn("compare", "--model-name", MODEL_NAME)
    expect(False, "RUNNING" in output)
    print_timestamped(f"no run is left running; {stack.local.relearn('history', '--model-name', MODEL_NAME)}")


def find_flow_process(stack: Stack) -> psutil.Process:
    """Return the process that runs a flow."""
    children = find_service(stack, "worker").children(recursive=True)
    return next(child for child in children if "prefect.engine" in child.cmdline())


def find_service(stack: Stack, service: str) -> psutil.Process:
    """Return the process of a service, by its command line."""
    supervisor = psutil.Process(int((stack.home / ".relearn" / "up" / "supervisor.pid").read_text()))
    words = {
        "prefect": "server start",
        "mlflow": "mlflow server",
        "worker": "relearn.flows.scheduling.worker",
        "api": "relearn serve",
    }
    return next(child for child in supervisor.children() if words[service] in " ".join(child.cmdline()))


FAULTS: dict[str, Callable[[Stack], psutil.Process]] = {
    "the process of a retraining": find_flow_process,
    "the worker": lambda stack: find_service(stack, "worker"),
    "Prefect's server": lambda stack: find_service(stack, "prefect"),
    "MLflow's server": lambda stack: find_service(stack, "mlflow"),
    "the API": lambda stack: find_service(stack, "api"),
}


def are_all_healthy(stack: Stack) -> bool:
    """Check the health routes of all services."""
    routes = {"prefect": "/api/health", "mlflow": "/health", "worker": "/health", "api": "/readyz"}
    with suppress(httpx.HTTPError):
        return all(
            httpx.get(stack.local.url(service) + route, timeout=2).is_success
            for service, route in routes.items()
        )
    return False


def wait_until_healthy(stack: Stack, service: str) -> float:
    """Wait until all services stay healthy; return the time of the last failed check, 0 if none failed.

    A service may die a second after its restart, so all must be healthy for `HEALTHY_SECONDS`.
    """
    start_time = last_failure = time.time()

    def is_healthy() -> bool:
        nonlocal last_failure
        if not are_all_healthy(stack):
            last_failure = time.time()
        return time.time() - last_failure > HEALTHY_SECONDS

    wait_for(is_healthy, f"the recovery of {service}")
    return last_failure if last_failure > start_time else 0.0


def wait_ended(stack: Stack, index: int) -> dict[str, Any]:
    """Wait until the retraining with this index, counted from 0, has ended; return it."""

    def has_ended() -> bool:
        runs = stack.list_retrainings()
        return len(runs) > index and runs[index]["state_type"] in ("COMPLETED", "FAILED", "CRASHED")

    wait_for(has_ended, f"retraining {index + 1}")
    return stack.list_retrainings()[index]


def wait_final(stack: Stack, run_id: str) -> dict[str, Any]:
    """Wait for a final state of a flow run; return the state."""

    def get_state() -> dict[str, Any]:
        state: dict[str, Any] = stack.get_run(run_id)["state"]
        return state

    final_states = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    wait_for(lambda: get_state()["type"] in final_states, f"the end of {run_id}")
    return get_state()


def outcome_of(stack: Stack, run_id: str, kill_time: float) -> str:
    """Wait until a run has completed; describe when it was marked failed, resumed and completed."""

    def get_state_type() -> str:
        return str(stack.get_run(run_id)["state_type"])

    events = []
    if wait_final(stack, run_id)["type"] != "COMPLETED":
        events.append(f"marked failed after {time.time() - kill_time:.0f} s")
        wait_for(lambda: get_state_type() in ("RUNNING", "COMPLETED"), f"{run_id} to resume")
        if stack.get_run(run_id)["run_count"] > 1:  # otherwise Prefect had only missed its heartbeats
            events.append(f"resumed after {time.time() - kill_time:.0f} s")
        wait_for(lambda: get_state_type() == "COMPLETED", f"{run_id} to complete")
    return ", ".join([*events, f"completed after {time.time() - kill_time:.0f} s"])


@contextmanager
def run_stack(folder: Path) -> Iterator[Stack]:
    """Run all services under a constant load of requests; check that no process is left at the end."""
    with run_temporary_stack(folder, "--model-name", MODEL_NAME) as local:
        stack = Stack(local)
        threading.Thread(target=send_requests_forever, args=(stack,), daemon=True).start()
        yield stack
    processes = psutil.process_iter(["environ", "cmdline"])
    expect([], [process.info["cmdline"] for process in processes if belongs_to(process, folder)])


def belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Check whether a process has the home in `folder`."""
    return (process.info["environ"] or {}).get("RELEARN_HOME") == str(folder / ".relearn")


def send_requests_forever(stack: Stack) -> None:
    """Request ten predictions per second."""
    url, image = f"{stack.local.url('api')}/predict", bytes(32 * 32)
    headers = {"content-type": "application/octet-stream"}
    while True:
        try:
            status = httpx.post(url, content=image, headers=headers, timeout=5).status_code
        except httpx.HTTPError:
            status = 0
        stack.responses.append((time.time(), status))
        time.sleep(0.1)


def print_timestamped(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def expect(expected: object, actual: object) -> None:
    """Raise `AssertionError` unless both are equal."""
    if expected != actual:
        raise AssertionError(f"got {actual!r}, expected {expected!r}")


def to_markdown(rows: list[dict[str, str]]) -> str:
    """Render rows with the same keys as a Markdown table."""
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(rows: list[dict[str, str]]) -> None:
    """Write docs/reliability/processes.md, one row for each fault."""
    page = f"{HEAD.format(today=date.today())}\n{to_markdown(rows)}\n"
    (ROOT / "docs" / "reliability" / "processes.md").write_text(page)


HEAD = """# When processes die

Behavior of `relearn up` when one of its processes is killed (SIGKILL) during a retraining, with ten requests
per second to the API. Written by `python -m infra.chaos.kill_processes`, last on {today}, on two cores.

A dead service is restarted at once. A run whose process is gone is marked failed, in Prefect and in MLflow,
and resumes by itself a minute later from its last checkpoint, twice at most. The API serves the live version
even if other services are down.
"""

if __name__ == "__main__":
    main()
