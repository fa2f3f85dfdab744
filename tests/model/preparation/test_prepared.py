"""Promises of prepared datasets: built once, reused, rebuilt if damaged, never incomplete."""

import json
import multiprocessing
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from filelock import FileLock

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.data.splits import split_dataset
from relearn.model.errors import CorruptDataError, DataError, InfrastructureError
from relearn.model.home import Home
from relearn.model.preparation import prepared as prepared_module
from relearn.model.preparation.prepared import PreparedDataset, load_prepared, prepare_dataset
from tests.model.conftest import IMAGES, LABELS
from tests.model.data.test_load import MNIST_FILES, write_files


def test_prepared_splits_equal_the_splits_in_memory(home: Home, config: TrainConfig) -> None:
    """Images and labels of each split are on disk, described by the manifest."""
    prepared = prepare_dataset(config, home)
    dataset = load_dataset(config, home)
    expected = split_dataset(dataset, config.test_fraction, config.validation_fraction)
    for name in ("train", "validation", "test"):
        split, expected_split = getattr(prepared.splits, name), getattr(expected, name)
        assert isinstance(split.images, np.memmap)
        assert np.array_equal(expected_split.images, split.images)
        assert np.array_equal(expected_split.labels, split.labels)
        assert np.bincount(expected_split.labels, minlength=4).tolist() == prepared.counts[name]
    assert ("shapes", ("0", "1", "2", "3"), "photo", (1, 12, 12)) == (
        prepared.name,
        prepared.classes,
        prepared.style,
        prepared.shape,
    )
    assert (config.dataset, dataset.fingerprint) == (prepared.uri, prepared.fingerprint)


def test_prepared_folder_is_reused(home: Home, config: TrainConfig) -> None:
    """No file is written again, and the call takes milliseconds."""
    folder = prepare_dataset(config, home).folder
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    start = perf_counter()
    reused = prepare_dataset(config, home)
    assert perf_counter() - start < 0.1
    assert before == {file: file.stat().st_mtime_ns for file in reused.folder.iterdir()}
    assert reused == load_prepared(folder)


def test_moved_home_reuses_the_folder(tmp_path: Path) -> None:
    """A built-in dataset whose files lie in the home is not prepared again at another place."""
    homes = [Home(tmp_path / place, tmp_path / place / "data") for place in ("old", "new")]
    config = TrainConfig(dataset="mnist", test_fraction=0.3, validation_fraction=0.3)
    write_files(homes[0], MNIST_FILES)
    folder = prepare_dataset(config, homes[0]).folder
    homes[0].root.rename(homes[1].root)
    prepared = prepare_dataset(config, homes[1])
    assert (folder.name, None) == (prepared.folder.name, prepared.rebuild_reason)
    assert [folder.name] == [path.name for path in homes[1].dataset_cache.glob("mnist-*")]


def test_only_data_settings_change_the_folder(home: Home, config: TrainConfig) -> None:
    """Image size, channels and split fractions change it; settings of the training do not."""
    folder = prepare_dataset(config, home).folder
    assert (
        folder
        == prepare_dataset(
            config.model_copy(update={"epochs": 3, "seed": 5, "model_name": "mine"}), home
        ).folder
    )
    changes = ({"image_size": 16}, {"channels": 3}, {"test_fraction": 0.3}, {"validation_fraction": 0.3})
    other_folders = {prepare_dataset(config.model_copy(update=change), home).folder for change in changes}
    assert 4 == len(other_folders - {folder})


def test_changed_source_file_is_prepared_again(home: Home, config: TrainConfig, tmp_path: Path) -> None:
    """The folder of a file with another size or modification time is not reused."""
    before = prepare_dataset(config, home)
    np.savez(tmp_path / "shapes.npz", images=IMAGES[::-1], labels=LABELS)
    assert before.fingerprint != prepare_dataset(config, home).fingerprint


def test_changed_source_folder_is_prepared_again(home: Home, tmp_path: Path) -> None:
    """An added image changes the dataset."""
    from PIL import Image

    for index, pixels in enumerate(IMAGES[:40]):
        (tmp_path / "set" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / str(index % 2) / f"{index}.png")
    config = TrainConfig(dataset=f"folder:{tmp_path / 'set'}")
    assert 40 == count_images(prepare_dataset(config, home))
    Image.fromarray(IMAGES[40]).save(tmp_path / "set" / "0" / "40.png")
    assert 41 == count_images(prepare_dataset(config, home))


def count_images(prepared: PreparedDataset) -> int:
    return int(np.sum(list(prepared.counts.values())))


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest", "flipped"])
def test_damaged_folder_is_rebuilt(home: Home, config: TrainConfig, damage: str) -> None:
    """A missing, truncated or changed file leads to a rebuild, with its reason."""
    original = prepare_dataset(config, home)
    file = original.folder / ("manifest.json" if damage == "manifest" else "train_images.npy")
    if damage == "missing":
        file.unlink()
    elif damage == "flipped":
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    else:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CorruptDataError):
        load_prepared(original.folder)
    rebuilt = prepare_dataset(config, home)
    assert str(file.name) in rebuilt.rebuild_reason
    assert (original.fingerprint, None) == (rebuilt.fingerprint, prepare_dataset(config, home).rebuild_reason)
    assert np.array_equal(original.splits.train.images, rebuilt.splits.train.images)


def test_invalid_manifest_is_rejected(tmp_path: Path) -> None:
    """A folder without a manifest, or with one that lists no files, is not loaded."""
    for content in (None, "[]", "{}", json.dumps({"files": {"train_images.npy": 5}}), "\x00"):
        if content is not None:
            (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(CorruptDataError):
            load_prepared(tmp_path)


def _prepare(
    config: TrainConfig,
    home: Home,
    start: "multiprocessing.synchronize.Barrier",
    results: "multiprocessing.Queue[tuple[str, int]]",
) -> None:
    start.wait(60)
    prepared = prepare_dataset(config, home)
    results.put((prepared.fingerprint, prepared.folder.stat().st_ino))


def test_processes_may_prepare_the_same_data_at_once(home: Home, config: TrainConfig) -> None:
    """One of four writes the folder, the others wait and reuse it."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_prepare, args=(config, home, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    prepared = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    folder = prepare_dataset(config, home).folder
    assert {(load_dataset(config, home).fingerprint, folder.stat().st_ino)} == prepared
    assert [folder] == [file for file in home.dataset_cache.iterdir() if file.is_dir()]


def test_invalid_data_is_rejected_and_leaves_no_folder(home: Home, tmp_path: Path) -> None:
    """The error has each problem in one line."""
    np.savez(tmp_path / "one.npz", images=IMAGES, labels=np.zeros(200, int))
    with pytest.raises(DataError, match=r"one\.npz: at least two classes need images, got 1"):
        prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'one.npz'}"), home)
    np.savez(tmp_path / "same.npz", images=IMAGES, labels=LABELS, test_images=IMAGES, test_labels=LABELS)
    with pytest.raises(DataError, match="every test image is a training image"):
        prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'same.npz'}"), home)
    assert [] == [file for file in home.dataset_cache.iterdir() if file.is_dir()]


def test_warnings_are_in_the_manifest(home: Home, tmp_path: Path) -> None:
    """Duplicates are kept, with a finding."""
    images = np.concatenate([IMAGES, IMAGES[:2]])
    np.savez(tmp_path / "twice.npz", images=images, labels=np.concatenate([LABELS, LABELS[:2]]))
    prepared = prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'twice.npz'}"), home)
    assert [("duplicate", 2)] == [(finding.check, finding.count) for finding in prepared.findings]


def test_home_that_cannot_be_written_is_an_infrastructure_error(config: TrainConfig, tmp_path: Path) -> None:
    """The message has the folder and the reason."""
    (tmp_path / "home").write_text("a file, not a folder")
    with pytest.raises(InfrastructureError, match=r"cannot prepare the data in .*home"):
        prepare_dataset(config, Home(tmp_path / "home", tmp_path / "data"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_leaves_no_incomplete_folder(
    home: Home, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space left while writing is an error, and no folder looks prepared."""
    monkeypatch.setattr(np, "save", lambda file, array: Path("/dev/full").write_bytes(array.tobytes()))
    with pytest.raises(InfrastructureError, match="No space left"):
        prepare_dataset(config, home)
    assert [] == [file for file in home.dataset_cache.iterdir() if file.is_dir()]


def test_real_mnist_has_the_same_splits(real_data: Path, home: Home) -> None:
    """MNIST has its own test split, and always the same sizes of the others."""
    prepared = prepare_dataset(TrainConfig(dataset="mnist"), Home(home.root, real_data))
    counts = {name: sum(class_counts) for name, class_counts in prepared.counts.items()}
    assert {"train": 47_961, "validation": 12_039, "test": 10_000} == counts


def test_waiting_for_another_preparation_ends(
    home: Home, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the data, the lock file and what to do."""
    monkeypatch.setattr(prepared_module, "LOCK_TIMEOUT_SECONDS", 0.1)
    folder = prepare_dataset(config, home).folder
    lock_file = folder.parent / f".{folder.name}.lock"
    with FileLock(lock_file), pytest.raises(InfrastructureError) as error:
        prepare_dataset(config, home)
    assert f"another process has been preparing {config.dataset} for 0 minutes" in str(error.value)
    assert f"wait for it to finish, or end the process that holds {lock_file}" in str(error.value)
