"""Training throughput of several libraries on the same cores, and of the matrix products alone."""

from pathlib import Path

import pandas as pd

from benchmarks.subprocess_peers import PEERS, Result, Task, interleaving_note, median_range, run_interleaved
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset

SETTINGS = {
    "dataset": "mnist",
    "hidden_sizes": (512,),
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.95,
    "batch_size": 256,
    "lr_schedule": "constant",
    "early_stopping": False,
    "epochs": 10_000,  # more than are ever requested
    "device": "cpu",
    "seed": 0,
}
OURS, LIMIT = "ours", "matrix products alone"


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """Measure thousand training images per second, evaluation on the validation images included."""
    prepared = prepare_dataset(TrainConfig(dataset="mnist"), Home.from_environment())
    images = len(prepared.splits.train)
    rows: list[dict[str, str]] = []
    versions: dict[str, str] = {}
    for network in ("mlp", "cnn"):
        results = run_interleaved(_tasks(network, prepared.folder), rounds)
        rows += [_row(network, name, results, images) for name in results]
        for result in results.values():
            versions |= result.versions
    note = (
        f"Epochs on MNIST, {images:,} images each, evaluated on {len(prepared.splits.validation):,}; "
        f"784-512-10 and the tutorial's cnn, SGD {SETTINGS['learning_rate']} with momentum "
        f"{SETTINGS['momentum']}, batch {SETTINGS['batch_size']}, float32, each library in a process of its "
        f"own. {interleaving_note(rounds)} Ratios are within a round. The limit is the time of the layers' "
        "matrix products alone, a convolution taken as the product of its patches with its filters. "
        "scikit-learn "
        "has no convolution. "
        f"{', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}."
    )
    return "Training throughput of several libraries", note, pd.DataFrame(rows)


def _tasks(network: str, data: Path) -> dict[str, Task]:
    return {
        name: Task(peer, {**SETTINGS, "network": network}, data)
        for name, peer in PEERS.items()
        if network in peer.networks
    }


def _row(network: str, name: str, results: dict[str, Result], images: int) -> dict[str, str]:
    result, row = results[name], {"network": network, "library": name}
    if result.error:
        return row | dict.fromkeys(COLUMNS, "–") | {COLUMNS[0]: result.error}
    rates = median_range([images / epoch.seconds / 1000 for epoch in result.epochs])
    speedup = median_range(_ratios(result, results[OURS]), 2)
    limit_percent = median_range([100 * ratio for ratio in _ratios(results[LIMIT], result)], 0)
    last = result.epochs[-1]
    accuracy = "–" if name == LIMIT else f"{100 * last.accuracy:.1f} %"
    return row | dict(
        zip(
            COLUMNS,
            (*rates, *speedup, f"{limit_percent[0]} %", limit_percent[1], accuracy, f"{last.peak_mb:.0f}"),
            strict=True,
        )
    )


def _ratios(upper: Result, lower: Result) -> list[float]:
    """Return seconds of `upper` divided by those of `lower` per round; NaN if one failed."""
    if upper.error or lower.error:
        return [float("nan")]
    return [
        upper_epoch.seconds / lower_epoch.seconds
        for upper_epoch, lower_epoch in zip(upper.epochs, lower.epochs, strict=True)
    ]


COLUMNS = (
    "thousand images/s, median",
    "range",
    "speedup of ours, median",
    "range of the speedup",
    "fraction of the limit, median",
    "range of the fraction",
    "validation accuracy at the end",
    "peak memory, MB",
)
