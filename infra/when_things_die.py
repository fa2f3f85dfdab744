"""Let `relearn up` run by the clock, kill its parts one by one, and write down what came of it.

`python -m infra.when_things_die` takes about half an hour, prints what it sees, checks it, and writes
docs/when-things-die.md.
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

from infra.alive import Alive, everything_up, wait_for

ROOT = Path(__file__).parents[1]
NAME = "growing"
STEADY = 6.0  # seconds for which all have to answer


@dataclass
class Stage:
    """What is up; `answers` are time and status of requests to the API, ten a second."""

    alive: Alive
    answers: list[tuple[float, int]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.alive.folder

    def prefect(self, path: str, **asked: Any) -> list[dict[str, Any]]:
        url = f"{self.alive.url('flows')}/api/{path}/filter"
        found: list[dict[str, Any]] = httpx.post(url, json=asked, timeout=10).raise_for_status().json()
        return found

    def run(self, run_id: str) -> dict[str, Any]:
        """The flow run of this id."""
        return self.prefect("flow_runs", flow_runs={"id": {"any_": [run_id]}})[0]

    def retrainings(self) -> list[dict[str, Any]]:
        """Flow runs of the schedule that have begun, oldest first; not those that were refused."""
        runs = self.prefect(
            "flow_runs", sort="EXPECTED_START_TIME_ASC", flows={"name": {"any_": ["retrain"]}}
        )
        return [run for run in runs if run["start_time"] and run["state_type"] != "CANCELLED"]

    def data(self, images: int) -> None:
        """Let the data have so many images, all at once as a careful user would."""
        pixels, labels = load_digits(return_X_y=True)
        content = io.BytesIO()
        # 8 × 8 pixels of 0 to 16, enlarged to 32 × 32 of 0 to 255
        large = np.kron(pixels.reshape(-1, 8, 8), np.ones((4, 4))) * 255 / 16
        np.savez(content, images=large[:images].astype(np.uint8), labels=labels[:images])
        new = self.home / "new.npz"
        new.write_bytes(content.getvalue())
        new.replace(self.home / "growing.npz")

    def schedule(self, *words: str, epochs: int, cron: str = "*/2 * * * *") -> None:
        data = ("--dataset", f"npz:{self.home / 'growing.npz'}", "--networks", "mlp")
        print(self.alive.relearn("schedule", "--cron", cron, *data, "--epochs", str(epochs), *words).strip())

    def unplan(self) -> None:
        self.alive.relearn("schedule", "--dataset", f"npz:{self.home / 'growing.npz'}", "--disable")

    def verdicts(self) -> list[str]:
        said = self.alive.relearn("history", "--model-name", NAME, "--json")
        return [json.loads(line)["action"] for line in said.splitlines()]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, watched(Path(folder)) as stage:
        by_the_clock(stage)
        rows = [killed(stage, *one) for one in PARTS.items()]
        nothing_stays_running(stage)
    write(rows)


def by_the_clock(stage: Stage) -> None:
    """A weak first release, a better one, a skip, and one that is held."""
    stage.data(1_000)
    say("a weak config, one epoch at a low rate")
    stage.schedule("--learning-rate", "0.001", "--momentum", "0.5", epochs=1)
    first = ended(stage, after=0)
    expect(("COMPLETED", None), (first["state_type"], first["state"]["message"]))
    say(f"{first['name']}: {stage.verdicts()}")
    stage.schedule(epochs=15)
    second = ended(stage, after=1)
    say(f"{second['name']}: {stage.verdicts()}")
    third = ended(stage, after=2)
    say(f"{third['name']}: {third['state_name']}, {third['state']['message']}")
    expect("Skipped", third["state_name"])
    stage.data(1_010)
    fourth = ended(stage, after=3)
    say(f"{fourth['name']} with ten more images: {stage.verdicts()}")
    verdicts = stage.verdicts()
    expect(["hold", "promote", "promote"], sorted(verdicts))
    stage.unplan()


def killed(stage: Stage, part: str, find: Callable[[Stage], psutil.Process]) -> dict[str, str]:
    """Kill one part while a retraining runs; how long until all was well again, and the retraining done."""
    before = len(stage.retrainings())
    stage.schedule("--force", "--learning-rate", "0.01", epochs=400, cron="* * * * *")
    wait_for(lambda: len(stage.retrainings()) > before, f"a retraining, before {part} is killed")
    stage.unplan()  # another one would take its place
    time.sleep(15)  # until it trains
    running = next(run for run in stage.retrainings() if run["state_type"] == "RUNNING")
    asked, at = len(stage.answers), time.time()
    find(stage).kill()
    say(f"killed {part} while {running['name']} ran")
    back = last_down(stage, part) - at
    came = course(stage, running["id"], at)
    failed = [status for _, status in stage.answers[asked:] if status != 200]
    row = {
        "part killed": part,
        "back after": f"{max(back, 0):.0f} s",
        "the retraining that ran": came,
        "requests to the API": f"{len(stage.answers) - asked} asked, {len(failed)} failed",
    }
    say(str(row))
    if part != "the API":
        expect(0, len(failed))
    for left in stage.retrainings():
        if left["state_type"] in ("RUNNING", "PENDING"):
            closed(stage, left["id"])
    return row


def nothing_stays_running(stage: Stage) -> None:
    time.sleep(30)
    expect([], [run["name"] for run in stage.retrainings() if run["state_type"] == "RUNNING"])
    found = stage.alive.relearn("compare", "--model-name", NAME)
    expect(False, "RUNNING" in found)
    say(f"nothing stays Running; {stage.alive.relearn('history', '--model-name', NAME)}")


def flow_process(stage: Stage) -> psutil.Process:
    return next(
        one for one in part_of(stage, "worker").children(recursive=True) if "prefect.engine" in one.cmdline()
    )


def part_of(stage: Stage, name: str) -> psutil.Process:
    """The process of a part, by what it was started with."""
    supervisor = psutil.Process(int((stage.home / ".relearn" / "up" / "supervisor.pid").read_text()))
    words = {
        "prefect": "server start",
        "mlflow": "mlflow server",
        "worker": "relearn.flows.scheduling.worker",
        "api": "relearn serve",
    }
    return next(one for one in supervisor.children() if words[name] in " ".join(one.cmdline()))


PARTS: dict[str, Callable[[Stage], psutil.Process]] = {
    "the process of a retraining": flow_process,
    "the runner": lambda stage: part_of(stage, "worker"),
    "Prefect's server": lambda stage: part_of(stage, "prefect"),
    "MLflow's page": lambda stage: part_of(stage, "mlflow"),
    "the API": lambda stage: part_of(stage, "api"),
}


def all_up(stage: Stage) -> bool:
    health = {"prefect": "/api/health", "mlflow": "/health", "worker": "/health", "api": "/readyz"}
    with suppress(httpx.HTTPError):
        return all(
            httpx.get(stage.alive.url(part) + path, timeout=2).is_success for part, path in health.items()
        )
    return False


def last_down(stage: Stage, part: str) -> float:
    """When it was last seen that not all answer, once all have for a while: some die a second later."""
    down = time.time()

    def steady() -> bool:
        nonlocal down
        if not all_up(stage):
            down = time.time()
        return time.time() - down > STEADY

    began = down
    wait_for(steady, f"{part} to come back")
    return down if down > began else 0.0


def ended(stage: Stage, after: int) -> dict[str, Any]:
    """The retraining that is the one after so many, once it is over."""

    def over() -> bool:
        runs = stage.retrainings()
        return len(runs) > after and runs[after]["state_type"] in ("COMPLETED", "FAILED", "CRASHED")

    wait_for(over, f"retraining {after + 1}")
    return stage.retrainings()[after]


def closed(stage: Stage, run_id: str) -> dict[str, Any]:
    """The final state of a flow run."""

    def state() -> dict[str, Any]:
        found: dict[str, Any] = stage.run(run_id)["state"]
        return found

    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    wait_for(lambda: state()["type"] in final, f"the end of {run_id}")
    return state()


def course(stage: Stage, run_id: str, at: float) -> str:
    """What became of a run since `at`, once it has ended well: when it was closed, when it went on."""
    told = []
    if closed(stage, run_id)["type"] != "COMPLETED":
        told.append(f"closed after {time.time() - at:.0f} s")
        wait_for(lambda: stage.run(run_id)["state_type"] in ("RUNNING", "COMPLETED"), f"{run_id} to go on")
        if stage.run(run_id)["run_count"] > 1:  # else it had lived, and Prefect's server had not heard of it
            told.append(f"went on after {time.time() - at:.0f} s")
        wait_for(lambda: stage.run(run_id)["state_type"] == "COMPLETED", f"{run_id} to end well")
    return ", ".join([*told, f"completed after {time.time() - at:.0f} s"])


@contextmanager
def watched(folder: Path) -> Iterator[Stage]:
    """Everything up, and asked by somebody who needs answers; nothing of it is left in the end."""
    with everything_up(folder, "--model-name", NAME) as alive:
        stage = Stage(alive)
        threading.Thread(target=ask_for_ever, args=(stage,), daemon=True).start()
        yield stage
    left = [one.info["cmdline"] for one in psutil.process_iter(["environ", "cmdline"]) if is_of(one, folder)]
    expect([], left)


def is_of(process: psutil.Process, folder: Path) -> bool:
    return (process.info["environ"] or {}).get("RELEARN_HOME") == str(folder / ".relearn")


def ask_for_ever(stage: Stage) -> None:
    """An image ten times a second, as somebody who needs answers would."""
    url, image = f"{stage.alive.url('api')}/predict", bytes(32 * 32)
    headers = {"content-type": "application/octet-stream"}
    while True:
        try:
            status = httpx.post(url, content=image, headers=headers, timeout=5).status_code
        except httpx.HTTPError:
            status = 0
        stage.answers.append((time.time(), status))
        time.sleep(0.1)


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def expect(wanted: object, got: object) -> None:
    if wanted != got:
        raise AssertionError(f"got {got!r}, expected {wanted!r}")


def write(rows: list[dict[str, str]]) -> None:
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (ROOT / "docs" / "when-things-die.md").write_text(f"{HEAD.format(today=date.today())}\n{table}\n")


HEAD = """# When things die

What `relearn up` does when one of its parts is killed (SIGKILL) while a retraining runs and the API is asked
ten times a second. Written by `python -m infra.when_things_die`, last on {today}, on two cores.

A part that died is started again at once. A run whose process is gone is closed, in Prefect and in MLflow,
and goes on by itself a minute later from its last checkpoint, twice at most. The API serves what is live
whatever else is down.
"""

if __name__ == "__main__":
    main()
