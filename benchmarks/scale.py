"""Training throughput and memory by dataset size and batch size."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.subprocess_peers import PEERS, Task, interleaving_note, median_range, run_interleaved
from benchmarks.train import SETTINGS
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.preparation.prepared import SPLITS, prepare_dataset

REPETITIONS = (1, 4, 16)
BATCHES = (32, 64, 256, 1024)
CASES = sorted({(times, 256) for times in REPETITIONS} | {(1, batch) for batch in BATCHES})


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """Vary the number of images with batches of 256, and the batch size on MNIST."""
    prepared = prepare_dataset(TrainConfig(dataset="mnist"), Home.from_environment())
    images = len(prepared.splits.train)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = {
            times: _repeat_dataset(prepared.folder, Path(folder) / f"{times}", times) for times in REPETITIONS
        }
        for network in ("mlp", "cnn"):
            tasks = {
                f"{network}, {times} × MNIST, batch {batch}": Task(
                    PEERS["ours"], {**SETTINGS, "network": network, "batch_size": batch}, data[times]
                )
                for times, batch in CASES
            }
            results = run_interleaved(tasks, rounds)
            for (times, batch), result in zip(CASES, results.values(), strict=True):
                row = {"network": network, "images": f"{times * images:,}", "batch": batch}
                if result.error:
                    rows.append(
                        row
                        | {"thousand images/s, median": result.error, "range": "–", "peak memory, MB": "–"}
                    )
                    continue
                rate, value_range = median_range(
                    [times * images / epoch.seconds / 1000 for epoch in result.epochs]
                )
                peak_mb = f"{max(epoch.peak_mb for epoch in result.epochs):.0f}"
                rows.append(
                    row
                    | {"thousand images/s, median": rate, "range": value_range, "peak memory, MB": peak_mb}
                )
    note = (
        "MNIST repeated, its validation images too; SGD, float32, evaluation on the validation images "
        "included "
        f"in the time. {interleaving_note(rounds)} Memory is the largest resident set of the process, "
        "pages of the mapped files included."
    )
    return "Training on more images", note, pd.DataFrame(rows)


def _repeat_dataset(source: Path, folder: Path, times: int) -> Path:
    """Write the images of `source` to `folder`, `times` times, in chunks."""
    folder.mkdir()
    for file in (source / f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")):
        if times == 1:
            shutil.copy(file, folder)
            continue
        original = np.load(file, mmap_mode="r")
        repeated = np.lib.format.open_memmap(
            folder / file.name, "w+", original.dtype, (times * len(original), *original.shape[1:])
        )
        for start in range(0, len(repeated), len(original)):
            repeated[start : start + len(original)] = original
        repeated.flush()
    return folder
