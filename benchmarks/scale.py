"""Our training on more images and in other batches: how fast, and how much memory it takes."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.subprocess_peers import PEERS, Task, spread, take_turns, told
from benchmarks.train import SETTINGS
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import SPLITS, prepare_dataset
from relearn.model.home import Home

TIMES = (1, 4, 16)
BATCHES = (32, 64, 256, 1024)
CASES = sorted({(times, 256) for times in TIMES} | {(1, batch) for batch in BATCHES})


def measure(rounds: int = 5) -> tuple[str, str, pd.DataFrame]:
    """One thing varies at a time: the images at batches of 256, the batch on MNIST as it is."""
    prepared = prepare_dataset(TrainConfig(dataset="mnist"), Home.from_environment())
    images = len(prepared.splits.train)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = {times: _repeated(prepared.folder, Path(folder) / f"{times}", times) for times in TIMES}
        for network in ("mlp", "cnn"):
            tasks = {
                f"{network}, {times} × MNIST, batch {batch}": Task(
                    PEERS["ours"], {**SETTINGS, "network": network, "batch_size": batch}, data[times]
                )
                for times, batch in CASES
            }
            results = take_turns(tasks, rounds)
            for (times, batch), result in zip(CASES, results.values(), strict=True):
                row = {"network": network, "images": f"{times * images:,}", "batch": batch}
                if result.error:
                    rows.append(
                        row
                        | {"thousand images/s, median": result.error, "range": "–", "peak memory, MB": "–"}
                    )
                    continue
                rate, between = spread([times * images / epoch.seconds / 1000 for epoch in result.epochs])
                peak = f"{max(epoch.peak_mb for epoch in result.epochs):.0f}"
                rows.append(
                    row | {"thousand images/s, median": rate, "range": between, "peak memory, MB": peak}
                )
    note = (
        "MNIST repeated, its validation images too; SGD, float32, the look at the validation images included "
        f"in the time. {told(rounds)} Memory is the largest resident set of the process, "
        "pages of the mapped files included."
    )
    return "Training on more images", note, pd.DataFrame(rows)


def _repeated(source: Path, folder: Path, times: int) -> Path:
    """The images of `source` in `folder`, `times` over, written piece by piece."""
    folder.mkdir()
    for file in (source / f"{part}_{kind}.npy" for part in SPLITS for kind in ("images", "labels")):
        if times == 1:
            shutil.copy(file, folder)
            continue
        once = np.load(file, mmap_mode="r")
        many = np.lib.format.open_memmap(
            folder / file.name, "w+", once.dtype, (times * len(once), *once.shape[1:])
        )
        for start in range(0, len(many), len(once)):
            many[start : start + len(once)] = once
        many.flush()
    return folder
