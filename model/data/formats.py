"""Formats of custom datasets: `READERS` maps folder, csv, parquet and npz to the functions that read them."""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relearn.model.config import TrainConfig
from relearn.model.data.builtin import DATASETS
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.tables import as_uint8, read_csv, read_parquet
from relearn.model.errors import DataError, InfrastructureError, NotFoundError
from relearn.model.images.decode_many import decode_images
from relearn.model.images.resize import ImageStyle

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_CLASSES = 1000
MAX_UNPACKED_BYTES = 2**33  # of all arrays in an npz
NPZ_ARRAY_NAMES = (
    ("images", "labels", "test_images", "test_labels"),
    ("x_train", "y_train", "x_test", "y_test"),
)
DARK_THRESHOLD = 32  # of 255; darker pixels are background
STYLE_SAMPLE_SIZE = 1000  # images from which the style is inferred


@dataclass(frozen=True)
class RawSplit:
    """Images, uint8 (n, channels, height, width), and their class names, str (n,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class RawDataset:
    """The result of a reader; `classes` lists classes that may have no image, in addition to the labels."""

    train: RawSplit
    test: RawSplit | None = None
    notes: Sequence[str] = ()
    classes: tuple[str, ...] = ()


def load_custom(file_format: str, path: Path, config: TrainConfig) -> Dataset:
    """Read a custom dataset; its classes are the labels found, in the order of `sort_class_names`."""
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    if not (path.is_dir() if file_format == "folder" else path.is_file()):
        kind = "folder" if file_format == "folder" else "file"
        raise DataError(f"{path} is not a {kind}, accepted: {file_format}:PATH with the path of a {kind}")
    try:
        raw = READERS[file_format](path, config)
    except OSError as error:
        raise InfrastructureError(
            f"cannot read {error.filename or path}: {error.strerror or error}"
        ) from None
    raw_splits = [raw.train] if raw.test is None else [raw.train, raw.test]
    classes = sort_class_names(
        [*raw.classes, *np.unique(np.concatenate([raw_split.labels for raw_split in raw_splits])).tolist()]
    )
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path} has {len(classes)} different labels, accepted: up to {MAX_CLASSES}")
    train, *test = (_encode_labels(raw_split, classes) for raw_split in raw_splits)
    return Dataset(
        name=derive_dataset_name(file_format, path),
        uri=f"{file_format}:{path}",
        classes=classes,
        style=infer_style(raw.train.images),
        train=train,
        test=test[0] if test else None,
        notes=tuple(raw.notes),
    )


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Drop duplicates and sort: by value if all names are whole numbers, else by name."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"-?\d+", name) for name in unique):
        unique.sort(key=int)
    return tuple(unique)


def infer_style(images: np.ndarray) -> ImageStyle:
    """Infer the style of `images`: how images of other sizes are fitted to their shape.

    `mnist` if the images are grey and at least 9 of 10 have a dark border, as digits on a dark background
    have (98.9 % of MNIST's); else `photo`.
    """
    sample = images[:: max(1, len(images) // STYLE_SAMPLE_SIZE)]
    edges = np.concatenate([sample[..., 0, :], sample[..., -1, :], sample[..., 0], sample[..., -1]], axis=-1)
    dark_edge_fraction = (edges < DARK_THRESHOLD).all(axis=(1, 2)).mean()
    return "mnist" if images.shape[1] == 1 and dark_edge_fraction >= 0.9 else "photo"


def _encode_labels(raw_split: RawSplit, classes: tuple[str, ...]) -> LabelledImages:
    class_names, inverse = np.unique(raw_split.labels, return_inverse=True)
    class_indices = np.array([classes.index(name) for name in class_names.tolist()], np.int64)
    return LabelledImages(raw_split.images, class_indices[inverse])


def derive_dataset_name(file_format: str, path: Path) -> str:
    """Derive the dataset's name from `path`; the names of DATASETS get the format as a suffix."""
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:50] or "own"
    return f"{name}-{file_format}" if name in DATASETS else name


def _read_folder(root: Path, size: int | None) -> RawDataset:
    """Read a folder of PNG or JPEG files for each class, or `train/` and `test/` with such folders."""
    split_folders = [root / name for name in ("train", "test") if _list_folders(root / name)]
    if root / "train" not in split_folders:
        split_folders = [root]
    class_folders = [folder for split_folder in split_folders for folder in _list_folders(split_folder)]
    image_files = [
        file
        for folder in class_folders
        for file in _list_visible(folder)
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    ]
    if not image_files:
        raise DataError(
            f"{root} has no images, accepted: a folder for each class with .png or .jpg files in it"
        )
    images, notes = decode_images([(str(file), file) for file in image_files], size)
    labels = np.array([file.parent.name for file in image_files])
    is_test = np.array([file.parent.parent != split_folders[0] for file in image_files])
    used_paths = {*split_folders, *class_folders, *image_files}
    unread_paths = [
        file
        for folder in (root, *split_folders, *class_folders)
        for file in _list_visible(folder)
        if file not in used_paths
    ]
    if unread_paths:
        notes.append(f"{len(unread_paths)} files or folders were not read, the first is {unread_paths[0]}")
    return RawDataset(
        RawSplit(images[~is_test], labels[~is_test]),
        RawSplit(images[is_test], labels[is_test]) if is_test.any() else None,
        notes,
        tuple(folder.name for folder in class_folders),
    )


def _from_table(images: np.ndarray, labels: np.ndarray, notes: list[str]) -> RawDataset:
    return RawDataset(RawSplit(images, labels), None, notes)


def _list_visible(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def _list_folders(folder: Path) -> list[Path]:
    return [file for file in _list_visible(folder) if file.is_dir()] if folder.is_dir() else []


def _read_npz(path: Path) -> RawDataset:
    """Read arrays named as in NPZ_ARRAY_NAMES, with or without a test split; channels first or last."""
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            array_names = next(
                (names for names in NPZ_ARRAY_NAMES if set(names[:2]) <= set(arrays.files)), None
            )
            if array_names is None:
                raise DataError(
                    f"{path} has the arrays {', '.join(arrays.files)}, accepted: "
                    + ", or ".join(", ".join(names) for names in NPZ_ARRAY_NAMES)
                )
            if len(missing := sorted(set(array_names[2:]) - set(arrays.files))) == 1:
                raise DataError(
                    f"{path} has no array {missing[0]!r}, accepted: {' and '.join(array_names[2:])}, or"
                    " neither"
                )
            raw_splits = [
                _read_npz_split(path, image_key, arrays[image_key], label_key, arrays[label_key])
                for image_key, label_key in (array_names[:2], array_names[2:])
                if image_key in arrays.files
            ]
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path} holds Python objects, accepted: arrays of numbers and text") from None
        raise DataError(f"{path} is not a valid npz file: {error}") from None
    return RawDataset(raw_splits[0], raw_splits[1] if len(raw_splits) > 1 else None)


def _check_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file")
    with zipfile.ZipFile(path) as archive:
        unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
    if unpacked_bytes > MAX_UNPACKED_BYTES:
        raise DataError(f"{path} unpacks to {unpacked_bytes:,} bytes, accepted: up to {MAX_UNPACKED_BYTES:,}")


def _read_npz_split(
    path: Path, image_key: str, images: np.ndarray, label_key: str, labels: np.ndarray
) -> RawSplit:
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
        images = as_uint8(images, lambda index: f"{path}: {image_key}{list(index)} is {images[index]}")
    return RawSplit(np.ascontiguousarray(images), labels.astype(str))


READERS: dict[str, Callable[[Path, TrainConfig], RawDataset]] = {
    "folder": lambda path, config: _read_folder(path, config.image_size),
    "csv": lambda path, config: _from_table(*read_csv(path)),
    "parquet": lambda path, config: _from_table(*read_parquet(path, config.image_size)),
    "npz": lambda path, config: _read_npz(path),
}
