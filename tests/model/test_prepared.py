"""Promises of prepared data: made once, found again, rebuilt when damaged, never half-written."""

import json
import multiprocessing
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.data.prepared import PreparedDataset, load_prepared, prepare_dataset
from relearn.model.data.splits import split_dataset
from relearn.model.errors import CorruptDataError, DataError, InfrastructureError
from relearn.model.home import Home
from tests.model.conftest import IMAGES, LABELS


def test_what_is_prepared_is_what_was_split(home: Home, config: TrainConfig) -> None:
    """Images and labels of each split, on disk as they were in memory, with a card about them."""
    prepared = prepare_dataset(config, home)
    dataset = load_dataset(config, home)
    expected = split_dataset(dataset, config.test_fraction, config.validation_fraction)
    for part in ("train", "validation", "test"):
        given, wanted = getattr(prepared.splits, part), getattr(expected, part)
        assert isinstance(given.images, np.memmap)
        assert np.array_equal(wanted.images, given.images)
        assert np.array_equal(wanted.labels, given.labels)
        assert np.bincount(wanted.labels, minlength=4).tolist() == prepared.counts[part]
    assert ("shapes", ("0", "1", "2", "3"), "photo", (1, 12, 12)) == (
        prepared.name,
        prepared.classes,
        prepared.style,
        prepared.shape,
    )
    assert (config.dataset, dataset.fingerprint) == (prepared.uri, prepared.fingerprint)


def test_the_second_time_it_is_found(home: Home, config: TrainConfig) -> None:
    """No file is written again, and it takes milliseconds."""
    folder = prepare_dataset(config, home).folder
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    start = perf_counter()
    again = prepare_dataset(config, home)
    assert perf_counter() - start < 0.1
    assert before == {file: file.stat().st_mtime_ns for file in again.folder.iterdir()}
    assert again == load_prepared(folder)


def test_settings_of_the_data_matter_and_no_others(home: Home, config: TrainConfig) -> None:
    """Size, channels and shares lead to other folders; what the network does with them does not."""
    one = prepare_dataset(config, home).folder
    assert (
        one
        == prepare_dataset(
            config.model_copy(update={"epochs": 3, "seed": 5, "model_name": "mine"}), home
        ).folder
    )
    changes = ({"image_size": 16}, {"channels": 3}, {"test_fraction": 0.3}, {"validation_fraction": 0.3})
    others = {prepare_dataset(config.model_copy(update=change), home).folder for change in changes}
    assert 4 == len(others - {one})


def test_a_changed_source_is_prepared_anew(home: Home, config: TrainConfig, tmp_path: Path) -> None:
    """Another size or time of the file, and the earlier folder is not taken."""
    before = prepare_dataset(config, home)
    np.savez(tmp_path / "shapes.npz", images=IMAGES[::-1], labels=LABELS)
    assert before.fingerprint != prepare_dataset(config, home).fingerprint


def test_a_changed_folder_is_prepared_anew(home: Home, tmp_path: Path) -> None:
    """A picture more in a folder is noticed."""
    from PIL import Image

    for index, pixels in enumerate(IMAGES[:40]):
        (tmp_path / "set" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / str(index % 2) / f"{index}.png")
    config = TrainConfig(dataset=f"folder:{tmp_path / 'set'}")
    assert 40 == total(prepare_dataset(config, home))
    Image.fromarray(IMAGES[40]).save(tmp_path / "set" / "0" / "40.png")
    assert 41 == total(prepare_dataset(config, home))


def total(prepared: PreparedDataset) -> int:
    return int(np.sum(list(prepared.counts.values())))


@pytest.mark.parametrize("damage", ["truncated", "missing", "card", "flipped"])
def test_a_damaged_folder_is_rebuilt(home: Home, config: TrainConfig, damage: str) -> None:
    """What is missing, cut short or changed is made anew, and that is said."""
    whole = prepare_dataset(config, home)
    file = whole.folder / ("manifest.json" if damage == "card" else "train_images.npy")
    if damage == "missing":
        file.unlink()
    elif damage == "flipped":
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    else:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorruptDataError):
        load_prepared(whole.folder)
    again = prepare_dataset(config, home)
    assert str(file.name) in again.rebuild_reason
    assert (whole.fingerprint, None) == (again.fingerprint, prepare_dataset(config, home).rebuild_reason)
    assert np.array_equal(whole.splits.train.images, again.splits.train.images)


def test_a_card_of_another_time_is_refused(tmp_path: Path) -> None:
    """A folder without a card, or with a card that names no files, is not opened."""
    for content in (None, "[]", "{}", json.dumps({"files": {"train_images.npy": 5}}), "\x00"):
        if content is not None:
            (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(CorruptDataError):
            load_prepared(tmp_path)


def _prepare(
    config: TrainConfig,
    home: Home,
    start: "multiprocessing.synchronize.Barrier",
    answers: "multiprocessing.Queue[tuple[str, int]]",
) -> None:
    start.wait(60)
    prepared = prepare_dataset(config, home)
    answers.put((prepared.fingerprint, prepared.folder.stat().st_ino))


def test_processes_may_prepare_at_once(home: Home, config: TrainConfig) -> None:
    """One of four writes, the others wait and take what it wrote."""
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_prepare, args=(config, home, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    given = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    folder = prepare_dataset(config, home).folder
    assert {(load_dataset(config, home).fingerprint, folder.stat().st_ino)} == given
    assert [folder] == [file for file in home.dataset_cache.iterdir() if file.is_dir()]


def test_errors_stop_it_and_leave_nothing(home: Home, tmp_path: Path) -> None:
    """Data that cannot be learned from is refused in one line, and not kept."""
    np.savez(tmp_path / "one.npz", images=IMAGES, labels=np.zeros(200, int))
    with pytest.raises(DataError, match=r"one\.npz: at least two classes need images, got 1"):
        prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'one.npz'}"), home)
    np.savez(tmp_path / "same.npz", images=IMAGES, labels=LABELS, test_images=IMAGES, test_labels=LABELS)
    with pytest.raises(DataError, match="every test image is a training image"):
        prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'same.npz'}"), home)
    assert [] == [file for file in home.dataset_cache.iterdir() if file.is_dir()]


def test_warnings_are_on_the_card(home: Home, tmp_path: Path) -> None:
    """What is strange but learnable is kept with the data."""
    images = np.concatenate([IMAGES, IMAGES[:2]])
    np.savez(tmp_path / "twice.npz", images=images, labels=np.concatenate([LABELS, LABELS[:2]]))
    prepared = prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'twice.npz'}"), home)
    assert [("duplicate", 2)] == [(finding.check, finding.count) for finding in prepared.findings]


def test_a_home_that_cannot_be_written(config: TrainConfig, tmp_path: Path) -> None:
    """The machine's refusal is told with its reason and the place."""
    (tmp_path / "home").write_text("a file, not a folder")
    with pytest.raises(InfrastructureError, match=r"cannot prepare the data in .*home"):
        prepare_dataset(config, Home(tmp_path / "home", tmp_path / "data"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_nothing_half_written(
    home: Home, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space left while writing: one line, and no folder that looks prepared."""
    monkeypatch.setattr(np, "save", lambda file, array: Path("/dev/full").write_bytes(array.tobytes()))
    with pytest.raises(InfrastructureError, match="No space left"):
        prepare_dataset(config, home)
    assert [] == [file for file in home.dataset_cache.iterdir() if file.is_dir()]


def test_real_mnist_is_prepared_quickly(real_data: Path, home: Home) -> None:
    """All of MNIST in seconds, with its own test part; its sizes do not depend on the day."""
    start = perf_counter()
    prepared = prepare_dataset(TrainConfig(dataset="mnist"), Home(home.root, real_data))
    assert perf_counter() - start < 10
    counts = {part: sum(numbers) for part, numbers in prepared.counts.items()}
    assert {"train": 47_961, "validation": 12_039, "test": 10_000} == counts
