"""Labelled images, wherever they come from, in one form."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from relearn.model import idx
from relearn.model.config import TrainConfig
from relearn.model.download import download, torchvision
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images import SMALLEST_SIDE, reshape

Style = Literal["strokes", "plain"]
"""`strokes`: bright strokes on a dark ground, centred by mass (the MNIST convention). `plain`: photos."""

FOLDER_DEPTHS = ("*", "*/*", "*/*/*")  # class/picture, or part/class/picture
SMALL = 64  # pixels a side up to which images keep their own size; larger ones need `size`


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images, uint8 (n, channels, height, width), and their labels, int64 (n,), 0 <= label < classes."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named classes of images in one shape, with a test part of its own or without.

    `source` is what was asked for ("mnist", "folder:/data/pets"), `notes` are warnings of loading.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    style: Style
    train: LabelledImages
    test: LabelledImages | None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of images, labels, class names and parts, in their order."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for part in (self.train, self.test):
            if part is None:
                digest.update(b"none")
                continue
            digest.update(repr(part.images.shape).encode())
            digest.update(np.ascontiguousarray(part.images).data)
            digest.update(np.ascontiguousarray(part.labels).data)
        return digest.hexdigest()


def load(config: TrainConfig, home: Home) -> Dataset:
    """Load the dataset that `config` names, in the size and channels it asks for.

    `auto` is MNIST where it is on disk, else digits. Only a dataset asked for by its own name is downloaded,
    once. Raises DataError or NotFoundError for what cannot be learned from, MachineError for disk and
    network.
    """
    kind, _, path = source(config, home).partition(":")
    if path:
        from relearn.model.own_data import load as load_own

        dataset = load_own(kind, Path(path), config)
    else:
        dataset = DATASETS[kind](home)
    return _in_shape(dataset, config)


def source(config: TrainConfig, home: Home) -> str:
    """What `config.dataset` stands for: a name of DATASETS or `kind:/absolute/path`."""
    asked = config.dataset
    if asked == "auto":
        return "mnist" if all(map(idx.found, _idx_files(home, "mnist"))) else "digits"
    if asked in DATASETS:
        return asked
    from relearn.model.own_data import SOURCES

    kind, _, path = asked.partition(":")
    if kind not in SOURCES or not path:
        forms = [*DATASETS, *(f"{kind}:PATH" for kind in SOURCES)]
        raise DataError(f"dataset: got {asked!r}, accepted: auto, {', '.join(forms)}")
    return f"{kind}:{Path(path).expanduser().absolute()}"


def name_of(config: TrainConfig, home: Home) -> str:
    """The name under which what is trained with `config` is released; nothing is loaded for it."""
    kind, _, path = source(config, home).partition(":")
    if config.name or not path:
        return config.name or kind
    from relearn.model import own_data

    return own_data.name_of(kind, Path(path))


def files(config: TrainConfig, home: Home) -> list[Path]:
    """The files that the dataset is read from; those of a download that is still to come are missing."""
    kind, _, path = source(config, home).partition(":")
    if path:
        return [Path(path), *(file for depth in FOLDER_DEPTHS for file in sorted(Path(path).glob(depth)))]
    if kind == "cifar10":
        return sorted((home.data / CIFAR10).glob("*"))
    if kind in IDX_FOLDERS:
        return [idx.found(file) or file for file in _idx_files(home, kind)]
    return []


def _in_shape(dataset: Dataset, config: TrainConfig) -> Dataset:
    channels, height, width = dataset.shape
    size = f"{dataset.source}: the images have {width} × {height} pixels"
    if min(height, width) < SMALLEST_SIDE:
        raise DataError(f"{size}, accepted: {SMALLEST_SIDE} or more a side")
    if config.size is None and max(height, width) > SMALL:
        raise DataError(f"{size}; more than {SMALL} a side needs the setting size, such as --size 48")
    wanted = (config.channels or channels, config.size or height, config.size or width)
    if wanted == dataset.shape:
        return dataset
    notes = list(dataset.notes)
    if wanted[0] < channels:
        notes.append("colour is lost: the images have three channels, the network gets one")
    if wanted[1] < height or wanted[2] < width:
        notes.append(f"resolution is lost: {width} × {height} pixels become {wanted[2]} × {wanted[1]}")
    train = replace(dataset.train, images=reshape(dataset.train.images, wanted))
    test = dataset.test and replace(dataset.test, images=reshape(dataset.test.images, wanted))
    return replace(dataset, train=train, test=test, notes=tuple(notes))


def _load_idx(home: Home, name: str, classes: tuple[str, ...], style: Style) -> Dataset:
    """MNIST or one of its kin, from the four files that torchvision downloads."""
    files = _idx_files(home, name)
    missing = [file.name for file in files if not idx.found(file)]
    if missing:
        download(IDX_FOLDERS[name], home.data, Path(IDX_FOLDERS[name]) / "raw", missing)
    train, test = _idx_part(*files[:2]), _idx_part(*files[2:])
    got = f"{len(train):,} training and {len(test):,} test images"
    note = f"{name}: got {got}, 60,000 and 10,000 were published"
    notes = () if (len(train), len(test)) == (60_000, 10_000) else (note,)
    return Dataset(name, name, classes, style, train, test, notes)


def _idx_part(image_file: Path, label_file: Path) -> LabelledImages:
    images, labels = idx.read(image_file, rank=3), idx.read(label_file, rank=1)
    if images.shape[1:] != (28, 28):
        height, width = images.shape[1:]
        raise DataError(f"{image_file} holds images of {height} × {width} pixels, accepted: 28 × 28")
    if len(images) != len(labels):
        raise DataError(f"{image_file} holds {len(images)} images, but {label_file} {len(labels)} labels")
    return LabelledImages(images[:, None], labels.astype(np.int64))


def _idx_files(home: Home, name: str) -> list[Path]:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return [home.data / IDX_FOLDERS[name] / "raw" / f"{kind}-ubyte" for kind in kinds]


def _load_cifar10(home: Home) -> Dataset:
    if not (home.data / CIFAR10).exists():
        download("CIFAR10", home.data, Path(), [CIFAR10])
    try:
        # torchvision checks the MD5 of every file before it reads it.
        parts = [torchvision().datasets.CIFAR10(home.data, train=train) for train in (True, False)]
    except RuntimeError:
        folder = home.data / CIFAR10
        raise DataError(f"{folder} is incomplete or changed: remove it, and it is downloaded again") from None
    train, test = (
        LabelledImages(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets))
        for part in parts
    )
    return Dataset("cifar10", "cifar10", tuple(parts[0].classes), "plain", train, test)


def _load_digits(home: Home) -> Dataset:
    """Handwriting that comes with scikit-learn: 1,797 digits of 43 writers, 8 × 8 pixels, 0 to 16.

    Put into MNIST's form: enlarged to 20 × 20, with as much ink as MNIST's (13 % of the page, for which the
    blur of the enlargement is cut off), centred by mass on 28 × 28.
    """
    from sklearn.datasets import load_digits

    from relearn.model.strokes import centre, resize

    pixels, labels = load_digits(return_X_y=True)
    large = [resize(image, 20, 20) for image in pixels.reshape(-1, 8, 8) / 16]
    sharp = [np.clip((image - 0.35) / 0.5, 0, 1) for image in large]
    images = np.stack([centre(image, 28, 28) for image in sharp])[:, None]
    part = LabelledImages(images, labels.astype(np.int64))
    return Dataset("digits", "digits", DIGITS, "strokes", part, None)


DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CIFAR10 = "cifar-10-batches-py"
IDX_FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}

DATASETS: dict[str, Callable[[Home], Dataset]] = {
    "mnist": partial(_load_idx, name="mnist", classes=DIGITS, style="strokes"),
    "fashion_mnist": partial(_load_idx, name="fashion_mnist", classes=CLOTHES, style="plain"),
    "kmnist": partial(_load_idx, name="kmnist", classes=KANA, style="strokes"),
    "cifar10": _load_cifar10,
    "digits": _load_digits,
}
