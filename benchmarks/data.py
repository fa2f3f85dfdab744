"""Large data: speed of decoding photos, and memory while many images are prepared and learned from."""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from PIL import Image

from relearn.model import devices
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.images.decode import decode_image
from relearn.model.images.decode_many import ImageSource, decode_images
from relearn.model.images.resize import fit_image
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.training.fit import fit

PHOTOS, PHOTO_SIZE, SIDE = 240, (3000, 2000), 32
IMAGES, IMAGE_SIZE, LARGE_SIDE = (5_000, 20_000), (320, 300), 224
SAMPLE_SECONDS = 0.05
DATA_LIMIT = 4 * 2**30  # bytes, RLIMIT_DATA of the process that is measured


def measure() -> tuple[str, str, pd.DataFrame]:
    """Measure photos per second, and the peak of anonymous memory (RssAnon) in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = _time_decoding(Path(folder, "photos"))
        rows += [
            {"step": f"{PHOTOS} photos to {SIDE} × {SIDE}, {way}", "result": f"{PHOTOS / taken:.0f} photos/s"}
            for way, taken in seconds.items()
        ]
        for count in IMAGES:
            source = Path(folder, str(count))
            write_photos(source, count, IMAGE_SIZE)
            output = subprocess.run(
                [sys.executable, "-m", "benchmarks.data", str(source), str(Path(folder, f"home{count}"))],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for line in output.splitlines():
                step, result = line.split("\t")
                rows.append(
                    {"step": f"{count:,} images, {LARGE_SIDE} × {LARGE_SIDE}: {step}", "result": result}
                )
    note = (
        f"Photos are JPEGs of {PHOTO_SIZE[0]} × {PHOTO_SIZE[1]} pixels, decoded in threads, once without and "
        f"once with a reduced scale. Images are JPEGs of {IMAGE_SIZE[0]} × {IMAGE_SIZE[1]} pixels, read in a "
        f"process whose data are limited to {DATA_LIMIT / 2**30:.0f} GB (RLIMIT_DATA). Memory is RssAnon, "
        f"which excludes files mapped into memory, every {SAMPLE_SECONDS} s; the first figure of each step "
        "is before it."
    )
    return "Large data", note, pd.DataFrame(rows)


def write_photos(folder: Path, count: int, size: tuple[int, int], classes: int = 4) -> None:
    """Write random JPEGs, smooth like photos, each with a content of its own."""

    def write(index: int) -> None:
        noise = np.random.default_rng(index).integers(0, 256, (12, 18, 3), np.uint8)
        noise[..., 0] = noise[..., 0] // 4 + 48 * (index % classes)
        photo = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        photo.save(folder / str(index % classes) / f"{index}.jpg", quality=85)

    for name in range(classes):
        (folder / str(name)).mkdir(parents=True)
    with ThreadPoolExecutor(devices.cpu_count()) as pool:
        list(pool.map(write, range(count)))


def _time_decoding(folder: Path) -> dict[str, float]:
    write_photos(folder, PHOTOS, PHOTO_SIZE)
    files = sorted(folder.rglob("*.jpg"))

    def decode_whole() -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(_decode_whole, files))

    sources = [ImageSource(file.name, partial(file.open, "rb")) for file in files]
    seconds = {}
    for way, work in {"whole": decode_whole, "reduced": lambda: decode_images(sources, SIDE)}.items():
        start = time.perf_counter()
        work()
        seconds[way] = time.perf_counter() - start
    return seconds


def _decode_whole(file: Path) -> np.ndarray:
    return fit_image(decode_image(file.read_bytes()), (3, SIDE, SIDE), "photo")


def anonymous_megabytes() -> float:
    """Return RssAnon of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


class MemoryWatch:
    """Anonymous memory, in MB, before a `with` block and at its peak inside."""

    def __init__(self) -> None:
        self.before = self.peak = anonymous_megabytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, anonymous_megabytes())


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Print the memory and the seconds of a step."""
    start = time.perf_counter()
    with MemoryWatch() as memory:
        yield
    seconds = time.perf_counter() - start
    print(f"{name}\t{memory.before:.0f} to {memory.peak:.0f} MB, {seconds:.1f} s", flush=True)


def watch_memory(source: str, home_folder: str) -> None:
    """Prepare the images in `source` twice and learn from them, step by step."""
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, DATA_LIMIT))
    config = TrainConfig(
        dataset=f"folder:{source}", image_size=LARGE_SIDE, hidden_sizes=(16,), epochs=1, batch_size=64
    )
    home = Home(Path(home_folder), Path(home_folder))
    with _step("prepared"):
        prepared = prepare_dataset(config, home)
    with _step("prepared again"):
        prepare_dataset(config, home)
    with _step("learned from, one epoch of an mlp"):
        fit(config, build_network(config, prepared.shape, 4), prepared.splits, 4)
    with _step("hashed"):
        len(prepared.splits.train_val_hashes)


if __name__ == "__main__":
    watch_memory(*sys.argv[1:])
