"""Seconds until a network is as right as it should be on MNIST's test images: ours against Keras."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.subprocess_peers import PEERS, Task, Worker, WorkerError, spread, take_turns
from relearn.model.config import PRESETS, TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.home import Home

TARGETS = {"mlp": 0.98, "cnn": 0.99}
FAST = {"mlp": PRESETS["fast"], "cnn": PRESETS["fast-cnn"]}
KERAS: dict[str, Any] = {"optimizer": "rmsprop", "learning_rate": 0.001, "batch_size": 256, "epochs": 15}
THEIRS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_sizes": (784, 512), **KERAS},
    "cnn": KERAS,
}
ALIKE = {"dataset": "mnist", "device": "cpu", "early_stopping": False}


@dataclass(frozen=True)
class Attempt:
    """One training up to the target, or through all its epochs."""

    reached: bool
    start_seconds: float
    seconds: float
    epochs: int
    best: float


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """A training of each in turn, with another seed in every round."""
    data = prepare_dataset(TrainConfig(dataset="mnist"), Home.from_environment()).folder
    rows = []
    for network, target in TARGETS.items():
        theirs = _fastest(network, data)
        settings = {"ours": FAST[network], theirs: THEIRS[network]}
        attempts = [
            {
                name: _attempt(_task(name, network, chosen, data, seed), target)
                for name, chosen in settings.items()
            }
            for seed in range(rounds)
        ]
        ratios = [_ratio(found["ours"], found[theirs]) for found in attempts]
        ahead = _spread([ratio for ratio in ratios if ratio], 2)
        rows += [
            {
                "network": network,
                "test accuracy": f"{100 * target:g} %",
                "library": name,
                **_figures([found[name] for found in attempts]),
                "ours is faster by, median": ahead[0],
                "range of that": ahead[1],
                "settings": ", ".join(f"{key} {value}" for key, value in chosen.items()),
            }
            for name, chosen in settings.items()
        ]
    note = (
        f"{rounds} rounds, one training of each in turn, with another seed every round; a ratio is taken in "
        "a round in which both got there. After every epoch the test images are looked at, to stop the clock "
        "and for nothing else. Seconds of the epochs with that look, set-up and compiling included; the "
        "start of the process and its imports are told beside. Both on the same two cores, Keras on the "
        "backend that a trial of four epochs says is through all of them first."
    )
    return "Seconds to an accuracy", note, pd.DataFrame(rows)


def _task(name: str, network: str, settings: dict[str, Any], data: Path, seed: int) -> Task:
    return Task(PEERS[name], {**ALIKE, **settings, "network": network, "seed": seed}, data, look_at="test")


def _fastest(network: str, data: Path) -> str:
    """The backend on which Keras would be through all its epochs first, or the first where none runs."""
    tasks = {
        name: _task(name, network, THEIRS[network], data, seed=0)
        for name, peer in PEERS.items()
        if peer.file == "keras"
    }
    results = take_turns(tasks, rounds=1)

    def whole(name: str) -> float:
        found = results[name]
        if found.error:
            return float("inf")
        first, *later = (epoch.seconds for epoch in found.warm_up + found.epochs)
        return first + (int(KERAS["epochs"]) - 1) * min(later)

    return min(tasks, key=whole)


def _attempt(task: Task, target: float) -> Attempt | str:
    seconds, best = 0.0, 0.0
    try:
        with Worker(task) as worker:
            for number in range(1, task.settings["epochs"] + 1):
                epoch = worker.epoch()
                seconds, best = seconds + epoch.seconds, max(best, epoch.accuracy)
                print(task.peer.file, task.settings["network"], number, epoch, flush=True)
                if best >= target:
                    break
    except WorkerError as error:
        return str(error)
    return Attempt(best >= target, worker.start_seconds, seconds, number, best)


def _ratio(ours: Attempt | str, theirs: Attempt | str) -> float | None:
    """How often ours fits into theirs, where both got there."""
    if isinstance(ours, str) or isinstance(theirs, str) or not (ours.reached and theirs.reached):
        return None
    return theirs.seconds / ours.seconds


def _figures(found: list[Attempt | str]) -> dict[str, str]:
    attempts = [attempt for attempt in found if isinstance(attempt, Attempt)]
    there = [attempt for attempt in attempts if attempt.reached]
    seconds, between = _spread([attempt.seconds for attempt in there])
    errors = [line for line in found if isinstance(line, str)]
    lowest = min((attempt.best for attempt in attempts), default=float("nan"))
    return {
        "seconds, median": errors[-1] if errors else seconds,
        "range": between,
        "and to start, median": _spread([attempt.start_seconds for attempt in attempts])[0],
        "epochs, median": f"{median(attempt.epochs for attempt in there):g}" if there else "–",
        "got there": f"{len(there)} of {len(found)}",
        "best accuracy, lowest": f"{100 * lowest:.2f} %",
    }


def _spread(values: list[float], digits: int = 1) -> tuple[str, str]:
    return spread(values, digits) if values else ("–", "–")
