"""Arrays of images and labels in an npz file: inspection and reading."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relearn.model.errors import DataError
from relearn.model.images.scale import ValueRange, scale_to_uint8
from relearn.model.sources.columns import is_one_hot
from relearn.model.sources.description import DataDescription, SplitName
from relearn.model.sources.pixel_columns import choose_scale, shape_images
from relearn.model.sources.raw_dataset import SPLIT_WORDS, RawDataset, RawSplit
from relearn.model.sources.tree import MAX_UNPACKED_BYTES

# Names of the arrays, beside the name of a split: ours, Keras's, MedMNIST's and others.
IMAGE_WORDS = ("images", "image", "x", "imgs", "img", "data")
LABEL_WORDS = ("labels", "label", "y", "targets", "target", "classes")


def inspect_arrays(path: Path, given: dict[str, Any]) -> DataDescription:
    """Describe an npz file by the names, shapes and values of its arrays."""
    with _open(path) as arrays:
        splits = given.get("splits") or _find_splits(path, arrays.files)
        unread = sorted(set(arrays.files) - {name for pair in splits.values() for name in pair})
        notes = [f"Array {name!r} is not read" for name in unread]
        description = DataDescription.model_validate(
            {"source": path, "layout": "arrays"} | given | {"splits": splits, "notes": notes}
        )
        value_range, counts, classes = None, dict[SplitName, int](), set[str]()
        for split, (image_key, label_key) in splits.items():
            images = _load_images(path, description, image_key, arrays[image_key])
            value_range = ValueRange.from_values(images).merge(value_range)
            labels = _load_labels(path, label_key, arrays[label_key], len(images))
            counts[split] = len(images)
            classes |= set(np.unique(labels).tolist())
    if value_range is None:
        raise DataError(f"{path} holds no images")
    image_keys = ", ".join(pair[0] for pair in splits.values())
    found = {
        "scale": given.get("scale") or choose_scale(f"{path}: {image_keys}", value_range),
        "classes": tuple(classes),
        "counts": counts,
    }
    return description.model_copy(update=found)


def read_arrays(description: DataDescription) -> RawDataset:
    """Read the arrays that `description` names, with or without a test split; channels first or last."""
    path, scale, splits = description.source, description.scale or 255, dict[SplitName, RawSplit]()
    with _open(path) as arrays:
        for split, (image_key, label_key) in description.splits.items():
            images = _load_images(path, description, image_key, arrays[image_key])
            labels = _load_labels(path, label_key, arrays[label_key], len(images))
            if not (values := ValueRange.from_values(images)).fits(scale):
                accepted = "fractions from 0 to 1" if scale == 1 else f"whole numbers from 0 to {scale}"
                raise DataError(f"{path}: {image_key} has {values}, accepted: {accepted}")
            places = np.array([f"{image_key}[{position}]" for position in range(len(images))])
            splits[split] = RawSplit(np.ascontiguousarray(scale_to_uint8(images, scale)), labels, places)
    return RawDataset(splits)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open an npz file without Python objects; check its size first."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked_bytes = sum(entry.file_size for entry in archive.infolist())
        if unpacked_bytes > MAX_UNPACKED_BYTES:
            raise DataError(
                f"{path} unpacks to {unpacked_bytes:,} bytes, accepted: up to {MAX_UNPACKED_BYTES:,}"
            )
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path} holds Python objects, accepted: arrays of numbers and text") from None
        raise DataError(f"{path} is not a valid npz file: {error}") from None


def _find_splits(path: Path, names: list[str]) -> dict[SplitName, tuple[str, ...]]:
    """Return the names of the image and label array of each split; one without labels is an error."""
    splits: dict[SplitName, tuple[str, ...]] = {}
    for split, words in SPLIT_WORDS.items():
        images, labels = (_find_name(names, words, roles) for roles in (IMAGE_WORDS, LABEL_WORDS))
        if split == "train" and not images:
            images, labels = (_find_name(names, ("",), roles) for roles in (IMAGE_WORDS, LABEL_WORDS))
        if images and labels:
            splits[split] = images, labels
        elif images or labels:
            present, opposite = images or labels, "labels" if images else "images"
            expected = re.sub(r"images?|labels?", opposite, present)
            missing = f"array {expected!r}" if expected != present else f"{opposite} beside {present!r}"
            raise DataError(f"{path} has no {missing}, accepted: images and labels for each split")
    if "train" not in splits:
        raise DataError(
            f"{path} has the arrays {', '.join(names)}, accepted: images, labels, test_images, test_labels; "
            "or x_train, y_train, x_test, y_test; or train_images, train_labels, test_images, test_labels"
        )
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    return splits


def _find_name(names: list[str], splits: tuple[str, ...], words: tuple[str, ...]) -> str:
    """Return the array that is called by one of `words`, before or after one of `splits`."""
    by_letters = {re.sub(r"[^a-z]", "", name.lower()): name for name in names}
    spellings = (spelling for split in splits for word in words for spelling in (split + word, word + split))
    return next((by_letters[spelling] for spelling in spellings if spelling in by_letters), "")


def _load_images(path: Path, description: DataDescription, key: str, images: np.ndarray) -> np.ndarray:
    """Return images as numbers (n, channels, height, width)."""
    shape = images.shape
    if images.ndim == 2 and images.size:
        images = shape_images(f"{path}: {key}", images, description)
    elif images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise DataError(
            f"{path}: {key} is {shape}, accepted: (n, height, width), or (n, height, width, "
            "channels) or (n, channels, height, width) with 1 or 3 channels"
        )
    if images.dtype.kind not in "buif":
        raise DataError(f"{path}: {key} holds {images.dtype}, accepted: numbers")
    return images


def _load_labels(path: Path, key: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the class names, str (n,), of whole numbers, text, or one-hot rows."""
    shape, kind = labels.shape, labels.dtype
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    elif labels.ndim == 2 and labels.dtype.kind in "buif" and is_one_hot(labels).all():
        labels = labels.argmax(axis=1)
    if labels.dtype.kind == "f" and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    if labels.shape != (count,) or labels.dtype.kind not in "biuUS":
        raise DataError(
            f"{path}: {key} is {kind} {shape}, accepted: whole numbers or text, one for each of the {count} "
            "images"
        )
    return labels.astype(str)
