"""Our training beside that of other libraries, in turn on the same cores, and its matrix products alone."""

from pathlib import Path

import pandas as pd

from benchmarks.subprocess_peers import PEERS, Result, Task, spread, take_turns, told
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.home import Home

SETTINGS = {
    "dataset": "mnist",
    "hidden_sizes": (512,),
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.95,
    "batch_size": 256,
    "lr_schedule": "constant",
    "early_stopping": False,
    "epochs": 10_000,  # nobody asks for the last
    "device": "cpu",
    "seed": 0,
}
OURS, LIMIT = "ours", "matrix products alone"


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """Thousand training images a second, the look at the validation images included in the time."""
    prepared = prepare_dataset(TrainConfig(dataset="mnist"), Home.from_environment())
    images = len(prepared.splits.train)
    rows: list[dict[str, str]] = []
    versions: dict[str, str] = {}
    for network in ("mlp", "cnn"):
        results = take_turns(_tasks(network, prepared.folder), rounds)
        rows += [_row(network, name, results, images) for name in results]
        for result in results.values():
            versions |= result.versions
    note = (
        f"Epochs on MNIST, {images:,} images each and a look at {len(prepared.splits.validation):,} others; "
        f"784-512-10 and the tutorial's cnn, SGD {SETTINGS['learning_rate']} with momentum "
        f"{SETTINGS['momentum']}, batch {SETTINGS['batch_size']}, float32, everyone in a process of its "
        f"own. {told(rounds)} A ratio is taken within a round. The limit is the time of the layers' matrix "
        "products alone, a convolution taken as the product of its patches with its filters. scikit-learn "
        "has no convolution. "
        f"{', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."
    )
    return "Training beside other libraries", note, pd.DataFrame(rows)


def _tasks(network: str, data: Path) -> dict[str, Task]:
    return {
        name: Task(peer, {**SETTINGS, "network": network}, data)
        for name, peer in PEERS.items()
        if network in peer.networks
    }


def _row(network: str, name: str, results: dict[str, Result], images: int) -> dict[str, str]:
    mine, row = results[name], {"network": network, "library": name}
    if mine.error:
        return row | dict.fromkeys(COLUMNS, "–") | {COLUMNS[0]: mine.error}
    rates = spread([images / epoch.seconds / 1000 for epoch in mine.epochs])
    ahead = spread(_ratios(mine, results[OURS]), 2)
    share = spread([100 * ratio for ratio in _ratios(results[LIMIT], mine)], 0)
    last = mine.epochs[-1]
    accuracy = "–" if name == LIMIT else f"{100 * last.accuracy:.1f} %"
    return row | dict(
        zip(
            COLUMNS, (*rates, *ahead, f"{share[0]} %", share[1], accuracy, f"{last.peak_mb:.0f}"), strict=True
        )
    )


def _ratios(upper: Result, lower: Result) -> list[float]:
    """Seconds of `upper` in those of `lower`, round by round; not a number where one has failed."""
    if upper.error or lower.error:
        return [float("nan")]
    return [one.seconds / other.seconds for one, other in zip(upper.epochs, lower.epochs, strict=True)]


COLUMNS = (
    "thousand images/s, median",
    "range",
    "ours is faster by, median",
    "range of that",
    "share of the limit, median",
    "range of the share",
    "validation accuracy at the end",
    "peak memory, MB",
)
