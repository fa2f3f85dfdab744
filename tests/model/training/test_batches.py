"""Batch loader: each image once per epoch, reproducible order, memory-mapped images."""

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
IMAGE_COUNT = 2_600_000  # 2 GB of 28×28 images

TRAIN_FROM_DISK = """
import sys, threading, time
from pathlib import Path
import numpy as np
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.networks.registry import build_network
from relearn.model.data.splits import Splits
from relearn.model.training.fit import fit

def anonymous_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def sample_peak():
    global peak
    while True:
        peak = max(peak, anonymous_kb())
        time.sleep(0.05)

peak = 0
threading.Thread(target=sample_peak, daemon=True).start()
images = np.load(sys.argv[1], mmap_mode="c")
labels = np.arange(len(images)) % 10
small = LabelledImages(np.array(images[:1000]), labels[:1000])
config = TrainConfig(epochs=1, batch_size=256, learning_rate=0.01)
fit(config, build_network(config, (1, 28, 28), 10), Splits(LabelledImages(images, labels), small, small), 10)
print(peak)
"""


def make_loader(count: int, batch_size: int, network_name: str = "mlp") -> BatchLoader:
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(64, axis=3).reshape(-1, 1, 8, 8)
    split = LabelledImages(images, np.arange(count) % 5)
    network = build_network(TrainConfig(network=network_name, hidden_sizes=(4,)), (1, 8, 8), 5)
    return BatchLoader(split, network, 5, batch_size, CPU)


def shuffled_order(loader: BatchLoader, first_batch: int = 0) -> list[int]:
    """Return the image numbers of a shuffled epoch, read from the first pixel of each image."""
    return [
        round(float(pixel) * 255)
        for batch in loader.iterate_shuffled(seed=3, epoch=2, first_batch=first_batch)
        for inputs, _ in batch
        for pixel in inputs.flatten(1)[:, 0]
    ]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_epoch_from_a_later_batch_has_the_same_order(network: str) -> None:
    """Skipped batches do not change the batches after them."""
    order = shuffled_order(make_loader(250, 32, network))
    assert sorted(order) == list(range(250))
    for first_batch in (1, 5, 7, 8):
        assert order[32 * first_batch :] == shuffled_order(make_loader(250, 32, network), first_batch)


def test_chunks_do_not_split_batches() -> None:
    """All batches but the last are full, for batch sizes below and above the chunk size."""
    for batch_size in (3, 1000, CHUNK_SIZE + 1):
        loader = make_loader(250, batch_size)
        sizes = [sum(len(inputs) for inputs, _ in batch) for batch in loader.iterate_in_order()]
        assert len(loader) == len(sizes)
        assert {loader.batch_size} >= set(sizes[:-1])
        assert 250 == sum(sizes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_mapped_images_stay_on_disk(tmp_path: Path) -> None:
    """Training on 2 GB of images takes less than 1 GB of anonymous memory."""
    file = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (IMAGE_COUNT, 1, 28, 28))
    chunk = np.random.default_rng(0).integers(0, 256, (100_000, 1, 28, 28), dtype=np.uint8)
    for start in range(0, IMAGE_COUNT, len(chunk)):
        file[start : start + len(chunk)] = chunk
    file.flush()
    process = subprocess.run(
        [sys.executable, "-c", TRAIN_FROM_DISK, tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(process.stdout) * 1024 < 1_000_000_000
