"""Promises of large data: constant memory, nothing left by a kill, no second decoding, a count to show."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import MemoryWatch, write_photos
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.errors import DataError, InfrastructureError
from relearn.model.home import Home
from relearn.model.images import decode_many
from relearn.model.images.allocate import allocate_in
from relearn.model.preparation.prepared import prepare_dataset

SIDE = 224


@pytest.fixture
def photos(tmp_path: Path) -> TrainConfig:
    """Eighty photos in four classes."""
    write_photos(tmp_path / "photos", 80, (90, 60))
    return TrainConfig(dataset=f"folder:{tmp_path / 'photos'}", image_size=32)


@pytest.mark.slow
def test_memory_does_not_hold_the_images(tmp_path: Path, home: Home) -> None:
    """1,500 images of 3 × 224 × 224, which take 226 MB, are prepared with less than 100 MB more."""
    write_photos(tmp_path / "photos", 1500, (60, 40))
    config = TrainConfig(dataset=f"folder:{tmp_path / 'photos'}", image_size=SIDE)
    with MemoryWatch() as memory:
        prepared = prepare_dataset(config, home)
    assert 1500 * 3 * SIDE**2 == sum(split.images.nbytes for split in vars(prepared.splits).values())
    assert memory.peak - memory.before < 100


def read_data_mb() -> float:
    """Return the memory of this process that a limit on its data (RLIMIT_DATA) counts, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) / 1024


def test_prepared_images_are_no_data_of_the_process(photos: TrainConfig, home: Home) -> None:
    """A limit on the memory of the process does not limit the number of images that it trains on."""
    prepared = prepare_dataset(photos.model_copy(update={"image_size": 256}), home)
    before = read_data_mb()
    splits = prepared.splits
    assert 80 * 3 * 256**2 == sum(split.images.nbytes for split in vars(splits).values())
    assert read_data_mb() - before < 1
    assert not splits.train.images.flags.writeable


def test_pixels_of_a_table_are_kept_in_files(tmp_path: Path, home: Home) -> None:
    """Rows of a table go into a file some at a time, with the same images as in memory."""
    rows = np.random.default_rng(0).integers(0, 256, (9_000, 17))  # more than are read at a time
    rows[:, 0] %= 4
    header = ",".join(["label", *(f"pixel{number}" for number in range(16))])
    np.savetxt(tmp_path / "data.csv", rows, "%d", ",", header=header, comments="")
    config = TrainConfig(dataset=f"csv:{tmp_path / 'data.csv'}")
    home.root.mkdir()
    in_memory, in_files = load_dataset(config, home), load_dataset(config, home, allocate_in(home.root))
    assert isinstance(in_files.train.images, np.memmap)
    assert np.array_equal(rows[:, 1:], in_files.train.images.reshape(-1, 16))
    assert in_memory.fingerprint == in_files.fingerprint


def test_images_in_files_equal_those_in_memory(photos: TrainConfig, home: Home) -> None:
    """The fingerprint does not depend on where images are kept; a first gray image does not matter."""
    folder = Path(photos.dataset.removeprefix("folder:"))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "0" / "0.png")
    home.root.mkdir()
    in_memory, in_files = load_dataset(photos, home), load_dataset(photos, home, allocate_in(home.root))
    assert isinstance(in_files.train.images, np.memmap)
    assert [(3, 32, 32)] * 2 == [in_memory.shape, in_files.shape]
    assert in_memory.fingerprint == in_files.fingerprint
    assert [] == list(home.root.iterdir())


def test_second_start_decodes_nothing(
    photos: TrainConfig, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prepared folder is reused as it is."""
    prepared = prepare_dataset(photos, home)
    monkeypatch.delattr(decode_many, "_read_image")
    assert prepared == prepare_dataset(photos, home)


def test_progress_counts_every_image(photos: TrainConfig, home: Home) -> None:
    """A bar is told each image that is done, and how many there are."""
    calls = list[tuple[int, int]]()
    prepare_dataset(photos, home, on_progress=lambda done, total: calls.append((done, total)))
    assert [(done, 80) for done in range(1, 81)] == calls


@pytest.mark.parametrize("moment", ["decoding", "writing"])
def test_kill_leaves_nothing_after_the_next_start(
    photos: TrainConfig, home: Home, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Images in files without a name are gone at once, a folder that was being written at the next start."""

    def kill(*arguments: object, **keywords: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(*((decode_many._Batch, "append") if moment == "decoding" else (np, "save")), kill)
        process = multiprocessing.get_context("fork").Process(target=prepare_dataset, args=(photos, home))
        process.start()
        process.join(60)
    assert -signal.SIGKILL == process.exitcode
    left = [path for path in home.dataset_cache.iterdir() if path.suffix == ".tmp"]
    assert (0 if moment == "decoding" else 1) == len(left)
    folder = prepare_dataset(photos, home).folder
    assert [folder] == [path for path in home.dataset_cache.iterdir() if path.is_dir()]


def test_full_disk_is_an_error_before_it_is_full(
    photos: TrainConfig, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Space for the images is reserved, as a write to a mapped file without space ends the process."""

    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(InfrastructureError, match=r"cannot keep the images of .*: No space left"):
        prepare_dataset(photos, home)


def test_pinned_fingerprint_refuses_other_data(photos: TrainConfig, home: Home, tmp_path: Path) -> None:
    """A line names both fingerprints and what to do; the same data are read."""
    fingerprint = load_dataset(photos, home).fingerprint
    folder = Path(photos.dataset.removeprefix("folder:"))
    file = tmp_path / "dataset.toml"
    file.write_text(f'source = "{folder}"\nfingerprint = "{fingerprint}"\n')
    pinned = photos.model_copy(update={"dataset": str(file)})
    assert fingerprint == load_dataset(pinned, home).fingerprint
    next(folder.rglob("*.jpg")).unlink()
    with pytest.raises(DataError, match=f"accepted: {fingerprint}, as its dataset.toml says") as error:
        load_dataset(pinned, home)
    assert "\n" not in str(error.value)
