"""Promises of loading: built-in datasets are read or downloaded, in the size and channels of the config."""

import functools
import gc
import gzip
import hashlib
import pickle
import struct
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.builtin import DATASETS
from relearn.model.data.download import torchvision
from relearn.model.data.load import default_model_name, load_dataset
from relearn.model.errors import DataError, InfrastructureError
from relearn.model.home import Home

FILE_STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (30, 28, 28), np.uint8), np.arange(30, dtype=np.uint8) % 10


def encode_idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


MNIST_FILES = {
    f"{name}-ubyte": encode_idx(array)
    for name, array in zip(FILE_STEMS, (IMAGES[:20], LABELS[:20], IMAGES[20:], LABELS[20:]), strict=True)
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "data")


def write_files(home: Home, files: dict[str, bytes], folder: str = "MNIST") -> Path:
    raw = home.data / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return raw


class QuietRequestHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served as MNIST's only mirror, with the checksums of our small files."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in MNIST_FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    checksums = [
        (file.name, hashlib.md5(file.read_bytes()).hexdigest())
        for name in MNIST_FILES
        for file in [folder / f"{name}.gz"]
    ]
    mnist = torchvision().datasets.MNIST
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietRequestHandler, directory=folder)
    ) as server:
        monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(mnist, "resources", checksums)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_mnist_on_disk_is_read(home: Home) -> None:
    """Images are uint8 (n, 1, 28, 28), labels int64, and the test split is MNIST's own."""
    write_files(home, MNIST_FILES)
    dataset = load_dataset(TrainConfig(dataset="mnist"), home)
    assert (20, 1, 28, 28) == dataset.train.images.shape
    assert (np.uint8, np.int64) == (dataset.train.images.dtype, dataset.train.labels.dtype)
    assert np.array_equal(IMAGES[20:], dataset.test.images[:, 0])
    assert (LABELS[20:] == dataset.test.labels).all()
    assert ("mnist", "mnist", "mnist", (1, 28, 28)) == (
        dataset.name,
        dataset.uri,
        dataset.style,
        dataset.shape,
    )
    assert tuple("0123456789") == dataset.classes


@pytest.mark.parametrize(
    ("name", "folder", "style", "example"),
    [("fashion_mnist", "FashionMNIST", "photo", "Trouser"), ("kmnist", "KMNIST", "drawing", "ki")],
)
def test_relatives_of_mnist_have_their_own_classes_and_styles(
    home: Home, name: str, folder: str, style: str, example: str
) -> None:
    """Classes have their published names."""
    write_files(home, MNIST_FILES, folder)
    dataset = load_dataset(TrainConfig(dataset=name), home)
    assert (name, style, example) == (dataset.name, dataset.style, dataset.classes[1])
    assert 10 == len(dataset.classes)


def test_auto_is_mnist_only_if_all_its_files_are_on_disk(home: Home) -> None:
    """Otherwise `auto` is digits; it downloads nothing."""
    assert "digits" == load_dataset(TrainConfig(dataset="auto"), home).name
    raw = write_files(home, MNIST_FILES)
    assert "mnist" == load_dataset(TrainConfig(dataset="auto"), home).name
    (raw / "t10k-labels-idx1-ubyte").unlink()
    assert "digits" == load_dataset(TrainConfig(dataset="auto"), home).name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train-images-idx3-ubyte": encode_idx(np.zeros((20, 29, 28), np.uint8))},
            "29 × 28 pixels, accepted: 28 × 28",
        ),
        ({"train-labels-idx1-ubyte": encode_idx(LABELS[:19])}, "20 images, but .* 19 labels"),
        (
            {"t10k-images-idx3-ubyte": MNIST_FILES["t10k-labels-idx1-ubyte"]},
            "is not an idx3 file of uint8 .*: it starts with 00000801",
        ),
    ],
)
def test_files_of_another_size_or_kind_are_rejected(
    home: Home, changes: dict[str, bytes], message: str
) -> None:
    """The message names wrong sizes, wrong counts and swapped files."""
    write_files(home, MNIST_FILES | changes)
    with pytest.raises(DataError, match=message):
        load_dataset(TrainConfig(dataset="mnist"), home)


def test_dataset_is_downloaded_once(home: Home, mirror: Path) -> None:
    """Missing files are downloaded, checked and kept; the second load works offline."""
    dataset = load_dataset(TrainConfig(dataset="mnist"), home)
    assert np.array_equal(IMAGES[:20], dataset.train.images[:, 0])
    assert sorted(MNIST_FILES) == sorted(file.name for file in (home.data / "MNIST" / "raw").iterdir())
    assert ["MNIST"] == [file.name for file in home.data.iterdir()]
    for file in mirror.iterdir():
        file.unlink()
    assert dataset.fingerprint == load_dataset(TrainConfig(dataset="mnist"), home).fingerprint


def test_download_keeps_existing_files(home: Home, mirror: Path) -> None:
    """Only missing files are added."""
    existing_labels = encode_idx(LABELS[:20][::-1])
    write_files(home, {"train-labels-idx1-ubyte": existing_labels})
    load_dataset(TrainConfig(dataset="mnist"), home)
    assert existing_labels == (home.data / "MNIST" / "raw" / "train-labels-idx1-ubyte").read_bytes()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torchvision does not close a failed response
@pytest.mark.parametrize("damage", ["missing", "html", "truncated"])
def test_failed_download_is_reported_in_one_line_and_leaves_no_file(
    home: Home, mirror: Path, damage: str
) -> None:
    """A file missing on the mirror, a web page instead, half a file: each is rejected."""
    file = mirror / "t10k-images-idx3-ubyte.gz"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(b"<html>" if damage == "html" else file.read_bytes()[:100])
    with pytest.raises(InfrastructureError) as caught:
        load_dataset(TrainConfig(dataset="mnist"), home)
    assert "MNIST is incomplete" in str(caught.value)
    assert "missing: train-images-idx3-ubyte" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [] == list(home.data.iterdir())
    del caught
    gc.collect()


def test_digits_have_the_form_of_mnist(home: Home) -> None:
    """1,797 digits, each within 20 × 20 around a centre of mass at 14, about as bright as MNIST's."""
    dataset = load_dataset(TrainConfig(dataset="digits"), home)
    images = dataset.train.images[:, 0].astype(float)
    assert (1797, 28, 28) == images.shape
    assert dataset.test is None
    assert (178, 182) == tuple(np.bincount(dataset.train.labels)[:2])
    rows, columns = (images > 0).any(axis=2).sum(axis=1), (images > 0).any(axis=1).sum(axis=1)
    assert 20 >= max(rows.max(), columns.max())
    centers = (images.sum(axis=2) @ np.arange(28)) / images.sum(axis=(1, 2))
    assert np.abs(centers - 14).max() < 1
    assert 0.12 < images.mean() / 255 < 0.15
    assert 250 < np.median(images.max(axis=(1, 2)))


@pytest.fixture
def cifar10(home: Home, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Pixels of small CIFAR-10 files: five batches of two images and a test batch, with checksums."""
    folder = home.data / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = RNG.integers(0, 256, (12, 3072), np.uint8)
    checksums = {}
    for index, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        rows = pixels[2 * index : 2 * index + 2]
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": [index % 10, 9]}))
        checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    dataset_class = torchvision().datasets.CIFAR10
    monkeypatch.setattr(dataset_class, "train_list", list(checksums.items())[:5])
    monkeypatch.setattr(dataset_class, "test_list", list(checksums.items())[5:])
    checksum = hashlib.md5((folder / "batches.meta").read_bytes()).hexdigest()
    meta = {"filename": "batches.meta", "key": "label_names", "md5": checksum}
    monkeypatch.setattr(dataset_class, "meta", meta)
    return pixels


def test_cifar10_has_channels_first(home: Home, cifar10: np.ndarray) -> None:
    """Images are (3, 32, 32), as in the file."""
    dataset = load_dataset(TrainConfig(dataset="cifar10"), home)
    assert (10, 3, 32, 32) == dataset.train.images.shape
    assert np.array_equal(cifar10[:10], dataset.train.images.reshape(10, -1))
    assert ("photo", "b", [5, 9]) == (dataset.style, dataset.classes[1], dataset.test.labels.tolist())


def test_changed_cifar10_file_is_not_unpickled(home: Home, cifar10: np.ndarray) -> None:
    """A file with another checksum is rejected first."""
    (home.data / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"cos\nsystem\n(S'exit 9'\ntR.")
    with pytest.raises(DataError, match="incomplete or changed"):
        load_dataset(TrainConfig(dataset="cifar10"), home)


def test_images_get_the_size_and_channels_of_the_config(home: Home) -> None:
    """Images are resized, gray becomes color, and lost resolution is noted."""
    write_files(home, MNIST_FILES)
    larger = load_dataset(TrainConfig(dataset="mnist", image_size=32, channels=3), home)
    count_note = "mnist: got 20 training and 10 test images, the published dataset has 60,000 and 10,000"
    assert ((3, 32, 32), (count_note,)) == (larger.shape, larger.notes)
    assert (3, 32, 32) == larger.test.images.shape[1:]
    assert (larger.train.images[:, :1] == larger.train.images).all()
    smaller = load_dataset(TrainConfig(dataset="mnist", image_size=14), home)
    assert (count_note, "resolution is lost: 28 × 28 pixels become 14 × 14") == smaller.notes
    blocks = IMAGES[0].reshape(14, 2, 14, 2).mean(axis=(1, 3))
    assert 0.9 < np.corrcoef(blocks.ravel(), smaller.train.images[0].ravel())[0, 1]


def test_conversion_to_grey_is_noted(home: Home, cifar10: np.ndarray) -> None:
    """Gray is the luma of red, green and blue."""
    dataset = load_dataset(TrainConfig(dataset="cifar10", channels=1), home)
    assert "color is lost" in dataset.notes[0]
    red, green, blue = cifar10[0].reshape(3, 32, 32)[:, 5, 7].astype(float)
    assert abs(0.299 * red + 0.587 * green + 0.114 * blue - dataset.train.images[0, 0, 5, 7]) <= 0.51


@pytest.mark.parametrize("name", ["mnsit", "folder:", "zip:/data", "", "MNIST"])
def test_unknown_dataset_is_rejected_with_all_accepted_forms(home: Home, name: str) -> None:
    """The message lists built-in names and the prefixes of custom datasets."""
    with pytest.raises(DataError) as caught:
        load_dataset(TrainConfig(dataset=name), home)
    for accepted in [*DATASETS, "auto", "folder:PATH", "csv:PATH", "parquet:PATH", "npz:PATH"]:
        assert accepted in str(caught.value)


def test_real_mnist_is_loaded(real_data: Path, tmp_path: Path) -> None:
    """The real files give 60,000 and 10,000 images; the first ones are a five and a seven."""
    dataset = load_dataset(TrainConfig(dataset="auto"), Home(tmp_path, real_data))
    assert (60_000, 10_000) == (len(dataset.train), len(dataset.test))
    assert (5, 7) == (dataset.train.labels[0], dataset.test.labels[0])
    assert "20bf6dd21945" == dataset.fingerprint[:12]


def test_built_in_datasets_are_complete() -> None:
    """DATASETS has the names that the settings list."""
    assert ["mnist", "fashion_mnist", "kmnist", "cifar10", "digits"] == list(DATASETS)


@pytest.mark.parametrize("file", ["Some Letters.npz", "digits.npz", "ÄÖ.npz"])
def test_model_name_is_derived_without_reading_the_data(file: str, tmp_path: Path) -> None:
    """It is the name of the loaded dataset, unless the config sets another."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / file, images=images, labels=np.arange(20) % 2)
    home, config = Home(tmp_path, tmp_path), TrainConfig(dataset=f"npz:{tmp_path / file}")

    assert load_dataset(config, home).name == default_model_name(config, home)
    assert "mine" == default_model_name(config.model_copy(update={"model_name": "mine"}), home)
    assert "digits" == default_model_name(TrainConfig(dataset="auto"), home)
