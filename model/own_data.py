"""The user's own images: a folder, a CSV, a Parquet file, or NumPy's arrays."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.model.config import TrainConfig
from relearn.model.datasets import DATASETS, Dataset, LabelledImages, Style
from relearn.model.errors import DataError, MachineError, NotFoundError
from relearn.model.pictures import stack
from relearn.model.tables import read_csv, read_parquet, whole

SUFFIXES = (".png", ".jpg", ".jpeg")
MOST_CLASSES = 1000
LARGEST_ARRAYS = 2**33  # bytes in an npz when unpacked
NPZ_NAMES = (
    ("images", "labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)
DARK = 32  # of 255; what is darker is ground, not stroke
LOOKED_AT = 1000  # images that decide on the style


@dataclass(frozen=True)
class Part:
    """Images, uint8 (n, channels, height, width), and the name of the class of each, str (n,)."""

    images: np.ndarray
    names: np.ndarray


@dataclass(frozen=True)
class Own:
    """What a reader found. `classes` are those it knows of without an image."""

    train: Part
    test: Part | None = None
    notes: Sequence[str] = ()
    classes: tuple[str, ...] = ()


def load(kind: str, path: Path, config: TrainConfig) -> Dataset:
    """Read the user's own images. Classes are the labels found, in order: of numbers, else of names."""
    if not path.exists():
        raise NotFoundError(f"{path} is not there")
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise DataError(f"{path} is no {'folder' if kind == 'folder' else 'file'}, which {kind}: needs")
    try:
        own = SOURCES[kind](path, config)
    except OSError as error:
        raise MachineError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    parts = [own.train] if own.test is None else [own.train, own.test]
    classes = in_order([*own.classes, *np.unique(np.concatenate([part.names for part in parts])).tolist()])
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{path} has {len(classes)} different labels, accepted: up to {MOST_CLASSES}")
    train, *test = (_labelled(part, classes) for part in parts)
    return Dataset(
        name=name_of(kind, path),
        source=f"{kind}:{path}",
        classes=classes,
        style=style_of(own.train.images),
        train=train,
        test=test[0] if test else None,
        notes=tuple(own.notes),
    )


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names without repetition, by number where all are whole numbers, else by name."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"-?\d+", name) for name in unique):
        unique.sort(key=int)
    return tuple(unique)


def style_of(images: np.ndarray) -> Style:
    """How pictures of other sizes are to be fitted to these images.

    `strokes` where the images are grey and at least 9 of 10 have a dark edge all round, as digits have that
    stand free on a dark ground (98.9 % of MNIST's do); else `plain`, as for photos.
    """
    some = images[:: max(1, len(images) // LOOKED_AT)]
    edges = np.concatenate([some[..., 0, :], some[..., -1, :], some[..., 0], some[..., -1]], axis=-1)
    free = (edges < DARK).all(axis=(1, 2)).mean()
    return "strokes" if images.shape[1] == 1 and free >= 0.9 else "plain"


def _labelled(part: Part, classes: tuple[str, ...]) -> LabelledImages:
    found, indices = np.unique(part.names, return_inverse=True)
    numbers = np.array([classes.index(name) for name in found.tolist()], np.int64)
    return LabelledImages(part.images, numbers[indices])


def name_of(kind: str, path: Path) -> str:
    """What the data in `path` is called where nobody says how."""
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:50] or "own"
    return f"{name}-{kind}" if name in DATASETS else name


def _read_folder(root: Path, size: int | None) -> Own:
    """A folder of PNG or JPEG pictures for each class; or `train/` and `test/`, each with such folders."""
    parts = [root / name for name in ("train", "test") if _folders(root / name)]
    if root / "train" not in parts:
        parts = [root]
    folders = [folder for part in parts for folder in _folders(part)]
    pictures = [
        file
        for folder in folders
        for file in _visible(folder)
        if file.suffix.lower() in SUFFIXES and file.is_file()
    ]
    if not pictures:
        raise DataError(
            f"{root} has no pictures, accepted: a folder for each class with .png or .jpg files in it"
        )
    images, notes = stack([(str(file), file) for file in pictures], size)
    names = np.array([file.parent.name for file in pictures])
    test = np.array([file.parent.parent != parts[0] for file in pictures])
    used = {*parts, *folders, *pictures}
    unread = [file for folder in (root, *parts, *folders) for file in _visible(folder) if file not in used]
    if unread:
        notes.append(f"{len(unread)} files or folders were not read, the first is {unread[0]}")
    return Own(
        Part(images[~test], names[~test]),
        Part(images[test], names[test]) if test.any() else None,
        notes,
        tuple(folder.name for folder in folders),
    )


def _from_table(images: np.ndarray, names: np.ndarray, notes: list[str]) -> Own:
    return Own(Part(images, names), None, notes)


def _visible(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [file for file in _visible(folder) if file.is_dir()] if folder.is_dir() else []


def _read_npz(path: Path) -> Own:
    """Arrays by the names of NPZ_NAMES, those of a test part or not; colour first or last."""
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            accepted = next((names for names in NPZ_NAMES if set(names[:2]) <= set(arrays.files)), None)
            if accepted is None:
                raise DataError(
                    f"{path} has the arrays {', '.join(arrays.files)}, accepted: "
                    + ", or ".join(", ".join(names) for names in NPZ_NAMES)
                )
            if len(absent := sorted(set(accepted[2:]) - set(arrays.files))) == 1:
                raise DataError(
                    f"{path} has no array {absent[0]!r}, accepted: {' and '.join(accepted[2:])}, or neither"
                )
            parts = [
                _npz_part(path, images, arrays[images], labels, arrays[labels])
                for images, labels in (accepted[:2], accepted[2:])
                if images in arrays.files
            ]
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path} holds Python objects, accepted: arrays of numbers and text") from None
        raise DataError(f"{path} is no sound npz file: {error}") from None
    return Own(parts[0], parts[1] if len(parts) > 1 else None)


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no npz file")
    with zipfile.ZipFile(path) as archive:
        length = sum(entry.file_size for entry in archive.infolist())
    if length > LARGEST_ARRAYS:
        raise DataError(f"{path} unpacks to {length:,} bytes, accepted: up to {LARGEST_ARRAYS:,}")


def _npz_part(path: Path, image_key: str, images: np.ndarray, label_key: str, labels: np.ndarray) -> Part:
    if images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise DataError(
            f"{path}: {image_key} is {images.shape}, accepted: (n, height, width), or (n, height, width, "
            "channels) or (n, channels, height, width) with 1 or 3 channels"
        )
    if images.dtype.kind not in "uif":
        raise DataError(f"{path}: {image_key} holds {images.dtype}, accepted: numbers")
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuUS":
        raise DataError(
            f"{path}: {label_key} is {labels.dtype} {labels.shape}, accepted: whole numbers or text, one for "
            f"each of the {len(images)} images"
        )
    if images.dtype != np.uint8:
        images = whole(images, lambda index: f"{path}: {image_key}{list(index)} is {images[index]}")
    return Part(np.ascontiguousarray(images), labels.astype(str))


SOURCES: dict[str, Callable[[Path, TrainConfig], Own]] = {
    "folder": lambda path, config: _read_folder(path, config.size),
    "csv": lambda path, config: _from_table(*read_csv(path)),
    "parquet": lambda path, config: _from_table(*read_parquet(path, config.size)),
    "npz": lambda path, config: _read_npz(path),
}
