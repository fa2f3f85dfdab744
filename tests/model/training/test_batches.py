"""Batches: every image once, in its order, and from disk as from memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.networks.registry import build_network
from relearn.model.training.batches import CHUNK_SIZE, BatchLoader

CPU = torch.device("cpu")
LARGE = 2_600_000  # images of 28 × 28: 2 GB

TRAIN_FROM_DISK = """
import sys, threading, time
from pathlib import Path
import numpy as np
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.networks.registry import build_network
from relearn.model.data.splits import Splits
from relearn.model.training.fit import fit

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.05)

peak = 0
threading.Thread(target=watch, daemon=True).start()
images = np.load(sys.argv[1], mmap_mode="c")
labels = np.arange(len(images)) % 10
few = LabelledImages(np.array(images[:1000]), labels[:1000])
config = TrainConfig(epochs=1, batch_size=256, learning_rate=0.01)
fit(config, build_network(config, (1, 28, 28), 10), Splits(LabelledImages(images, labels), few, few), 10)
print(peak)
"""


def batches(count: int, batch_size: int, network: str = "mlp") -> BatchLoader:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(64, axis=3).reshape(-1, 1, 8, 8)
    split = LabelledImages(images, np.arange(count) % 5)
    made = build_network(TrainConfig(network=network, hidden_sizes=(4,)), (1, 8, 8), 5)
    return BatchLoader(split, made, 5, batch_size, CPU)


def order(of: BatchLoader, skip: int = 0) -> list[int]:
    """Which images a shuffled pass shows, by the grey of their first pixel."""
    passed = of.iterate_shuffled(seed=3, epoch=2, first_batch=skip)
    return [
        round(float(grey) * 255)
        for batch in passed
        for inputs, _ in batch
        for grey in inputs.flatten(1)[:, 0]
    ]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_a_pass_that_begins_later_is_the_rest_of_the_whole(network: str) -> None:
    """Skipped batches are not looked at, and change nothing in those that follow."""
    whole = order(batches(250, 32, network))
    assert sorted(whole) == list(range(250))
    for skip in (1, 5, 7, 8):
        assert whole[32 * skip :] == order(batches(250, 32, network), skip)


def test_a_batch_is_never_cut_by_a_piece() -> None:
    """Whatever the batch size, all but the last batch are full."""
    for batch_size in (3, 1000, CHUNK_SIZE + 1):
        of = batches(250, batch_size)
        sizes = [sum(len(inputs) for inputs, _ in batch) for batch in of.iterate_in_order()]
        assert len(of) == len(sizes)
        assert {of.batch_size} >= set(sizes[:-1])
        assert 250 == sum(sizes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_data_larger_than_wanted_stays_on_disk(tmp_path: Path) -> None:
    """Training on 2 GB takes less than 1 GB of memory that could not be given back."""
    file = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (LARGE, 1, 28, 28))
    piece = np.random.default_rng(0).integers(0, 256, (100_000, 1, 28, 28), dtype=np.uint8)
    for first in range(0, LARGE, len(piece)):
        file[first : first + len(piece)] = piece
    file.flush()
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_FROM_DISK, tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < 1_000_000_000
