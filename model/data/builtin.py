"""Built-in datasets: MNIST and its relatives, CIFAR-10, and the digits of scikit-learn."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.download import download_dataset, torchvision
from relearn.model.data.idx import find_idx_or_gz, read_idx
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images.resize import ImageStyle


def _load_idx(home: Home, name: str, classes: tuple[str, ...], style: ImageStyle) -> Dataset:
    """Load MNIST or a dataset of its format from the four files that torchvision downloads."""
    paths = idx_paths(home, name)
    missing_files = [file.name for file in paths if not find_idx_or_gz(file)]
    if missing_files:
        download_dataset(IDX_FOLDERS[name], home.data, Path(IDX_FOLDERS[name]) / "raw", missing_files)
    train, test = _read_idx_split(*paths[:2]), _read_idx_split(*paths[2:])
    actual_counts = f"{len(train):,} training and {len(test):,} test images"
    note = f"{name}: got {actual_counts}, the published dataset has 60,000 and 10,000"
    notes = () if (len(train), len(test)) == (60_000, 10_000) else (note,)
    return Dataset(name, name, classes, style, train, test, notes)


def _read_idx_split(image_file: Path, label_file: Path) -> LabelledImages:
    images, labels = read_idx(image_file, rank=3), read_idx(label_file, rank=1)
    if images.shape[1:] != (28, 28):
        height, width = images.shape[1:]
        raise DataError(f"{image_file} holds images of {height} × {width} pixels, accepted: 28 × 28")
    if len(images) != len(labels):
        raise DataError(f"{image_file} holds {len(images)} images, but {label_file} {len(labels)} labels")
    return LabelledImages(images[:, None], labels.astype(np.int64))


def idx_paths(home: Home, name: str) -> list[Path]:
    """Return the paths of training images, training labels, test images and test labels."""
    stems = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return [home.data / IDX_FOLDERS[name] / "raw" / f"{stem}-ubyte" for stem in stems]


def _load_cifar10(home: Home) -> Dataset:
    if not (home.data / CIFAR10_FOLDER).exists():
        download_dataset("CIFAR10", home.data, Path(), [CIFAR10_FOLDER])
    try:
        # torchvision checks the MD5 of every file before it reads it.
        cifar_splits = [torchvision().datasets.CIFAR10(home.data, train=train) for train in (True, False)]
    except RuntimeError:
        folder = home.data / CIFAR10_FOLDER
        raise DataError(f"{folder} is incomplete or changed: remove it to download it again") from None
    train, test = (
        LabelledImages(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)), np.array(split.targets))
        for split in cifar_splits
    )
    return Dataset("cifar10", "cifar10", tuple(cifar_splits[0].classes), "photo", train, test)


def _load_digits(home: Home) -> Dataset:
    """Load the digits of scikit-learn: 1,797 images of 43 writers, 8 × 8 pixels, values 0 to 16.

    They are converted to MNIST's form: enlarged to 20 × 20, with as much ink as MNIST (13 % of the page;
    clipping removes the blur of the enlargement), centered by mass on 28 × 28.
    """
    from sklearn.datasets import load_digits

    from relearn.model.images.mnist_style import center_by_mass, resize

    pixels, labels = load_digits(return_X_y=True)
    large_images = [resize(image, 20, 20) for image in pixels.reshape(-1, 8, 8) / 16]
    sharp_images = [np.clip((image - 0.35) / 0.5, 0, 1) for image in large_images]
    images = np.stack([center_by_mass(image, 28, 28) for image in sharp_images])[:, None]
    train = LabelledImages(images, labels.astype(np.int64))
    return Dataset("digits", "digits", DIGIT_CLASSES, "mnist", train, None)


DIGIT_CLASSES = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KMNIST_CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CIFAR10_FOLDER = "cifar-10-batches-py"
IDX_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}

DATASETS: dict[str, Callable[[Home], Dataset]] = {
    "mnist": partial(_load_idx, name="mnist", classes=DIGIT_CLASSES, style="mnist"),
    "fashion_mnist": partial(_load_idx, name="fashion_mnist", classes=FASHION_MNIST_CLASSES, style="photo"),
    "kmnist": partial(_load_idx, name="kmnist", classes=KMNIST_CLASSES, style="drawing"),
    "cifar10": _load_cifar10,
    "digits": _load_digits,
}
