"""Time to accuracy on MNIST's test images: our training against Keras."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.subprocess_peers import PEERS, Task, Worker, WorkerError, median_range, run_interleaved
from relearn.model.config import PRESETS, TrainConfig
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset

TARGETS = {"mlp": 0.98, "cnn": 0.99}
OWN_SETTINGS = {"mlp": PRESETS["fast"], "cnn": PRESETS["fast-cnn"]}
KERAS_TUTORIAL: dict[str, Any] = {
    "optimizer": "rmsprop",
    "learning_rate": 0.001,
    "batch_size": 256,
    "epochs": 15,
}
KERAS_SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_sizes": (784, 512), **KERAS_TUTORIAL},
    "cnn": KERAS_TUTORIAL,
}
SHARED_SETTINGS = {"dataset": "mnist", "device": "cpu", "early_stopping": False}


@dataclass(frozen=True)
class Attempt:
    """A training that ended at the target accuracy, or after all its epochs."""

    reached: bool
    start_seconds: float
    seconds: float
    epochs: int
    best: float


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """Train each library once per round, with a new seed in every round."""
    data = prepare_dataset(TrainConfig(dataset="mnist"), Home.from_environment()).folder
    rows = []
    for network, target in TARGETS.items():
        theirs = _fastest_keras(network, data)
        settings = {"ours": OWN_SETTINGS[network], theirs: KERAS_SETTINGS[network]}
        attempts = [
            {
                name: _attempt(_task(name, network, chosen, data, seed), target)
                for name, chosen in settings.items()
            }
            for seed in range(rounds)
        ]
        ratios = [_ratio(round_attempts["ours"], round_attempts[theirs]) for round_attempts in attempts]
        speedup = _spread([ratio for ratio in ratios if ratio], 2)
        rows += [
            {
                "network": network,
                "test accuracy": f"{100 * target:g} %",
                "library": name,
                **_figures([round_attempts[name] for round_attempts in attempts]),
                "speedup of ours, median": speedup[0],
                "range of the speedup": speedup[1],
                "settings": ", ".join(f"{key} {value}" for key, value in chosen.items()),
            }
            for name, chosen in settings.items()
        ]
    note = (
        f"{rounds} rounds, one training of each in turn, with a new seed every round; the speedup is of "
        "rounds in which both reached the target. The test images are evaluated after every epoch, only to "
        "stop the clock. Seconds include this evaluation, set-up and compilation; the start of the process "
        "and its imports are a separate column. Both run on the same two cores, Keras on the backend that is "
        "fastest in a trial of four epochs."
    )
    return "Time to accuracy", note, pd.DataFrame(rows)


def _task(name: str, network: str, settings: dict[str, Any], data: Path, seed: int) -> Task:
    return Task(
        PEERS[name],
        {**SHARED_SETTINGS, **settings, "network": network, "seed": seed},
        data,
        validation_split_name="test",
    )


def _fastest_keras(network: str, data: Path) -> str:
    """Return the backend on which Keras is estimated to finish first, or the first one if none runs."""
    tasks = {
        name: _task(name, network, KERAS_SETTINGS[network], data, seed=0)
        for name, peer in PEERS.items()
        if peer.file == "keras"
    }
    results = run_interleaved(tasks, rounds=1)

    def total_seconds(name: str) -> float:
        found = results[name]
        if found.error:
            return float("inf")
        first, *later = (epoch.seconds for epoch in found.warm_up + found.epochs)
        return first + (int(KERAS_TUTORIAL["epochs"]) - 1) * min(later)

    return min(tasks, key=total_seconds)


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
    """Return the speedup of ours, or None unless both reached the target."""
    if isinstance(ours, str) or isinstance(theirs, str) or not (ours.reached and theirs.reached):
        return None
    return theirs.seconds / ours.seconds


def _figures(found: list[Attempt | str]) -> dict[str, str]:
    attempts = [attempt for attempt in found if isinstance(attempt, Attempt)]
    reached = [attempt for attempt in attempts if attempt.reached]
    seconds, between = _spread([attempt.seconds for attempt in reached])
    errors = [line for line in found if isinstance(line, str)]
    lowest = min((attempt.best for attempt in attempts), default=float("nan"))
    return {
        "seconds, median": errors[-1] if errors else seconds,
        "range": between,
        "start-up seconds, median": _spread([attempt.start_seconds for attempt in attempts])[0],
        "epochs, median": f"{median(attempt.epochs for attempt in reached):g}" if reached else "–",
        "reached target": f"{len(reached)} of {len(found)}",
        "best accuracy, lowest": f"{100 * lowest:.2f} %",
    }


def _spread(values: list[float], digits: int = 1) -> tuple[str, str]:
    return median_range(values, digits) if values else ("–", "–")
