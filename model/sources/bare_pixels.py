"""Pixels without image files, in rows of tables or in arrays of an npz file: inspection and reading."""

import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relearn.model.description.name_words import SPLIT_WORDS
from relearn.model.description.raw_dataset import RawDataset, RawSplit, count_splits, divide_by_split
from relearn.model.description.source_description import DataDescription, SplitName
from relearn.model.errors import DataError
from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import MIN_SIDE
from relearn.model.images.scale import BYTE_WHITE, ValueRange, scale_to_uint8
from relearn.model.sources.columns import Rows, find_roles, is_index, is_one_hot, read_rows
from relearn.model.sources.pixel_columns import (
    choose_scale,
    find_pixel_columns,
    find_planes,
    find_shape,
    infer_shape,
    shape_images,
    unpack_numbers,
)
from relearn.model.sources.tables import TableFile, parse_number, tidy_labels
from relearn.model.sources.tree import MAX_UNPACKED_BYTES

MAX_UNREAD_COLUMNS = 5  # beside label and pixels
MAX_PIXELS = 2**33  # values of all images of a table
# Names of the arrays, beside the name of a split: ours, Keras's, MedMNIST's and others.
IMAGE_WORDS = ("images", "image", "x", "imgs", "img", "data")
LABEL_WORDS = ("labels", "label", "y", "targets", "target", "classes")


def inspect_pixel_tables(
    source: Path, tables: Sequence[TableFile], choices: dict[str, Any]
) -> DataDescription:
    """Describe tables of pixels; every row is read once, for labels and the range of the values."""
    table = tables[0]
    pixels = find_pixel_columns(table, choices)
    others = [name for name in table.columns if name not in set(pixels) and not is_index(name)]
    roles = find_roles(tables, others, choices)
    read = {*roles["label_columns"], roles["split_column"], roles["groups_column"]}
    unread = [name for name in others if name not in read]
    if len(unread) > MAX_UNREAD_COLUMNS:
        first = ", ".join(map(repr, unread[:3]))
        raise DataError(
            f"{table.name}: {first} and {len(unread) - 3} more columns are neither "
            "pixels nor a label, accepted: pixels numbered in one way, or listed in a dataset.toml as "
            "`pixel_columns = […]`"
        )
    shape_settings = {"interleaved": False} if find_planes(table.columns) == pixels else {}
    if len(pixels) == 1 and len(table.sample):
        shape_settings = find_shape(table.sample[pixels[0]].iloc[0])
    notes = [f"Column {name!r} is not read" for name in unread[:3]]
    description = DataDescription.model_validate(
        {"source": source, "layout": "pixel_table"}
        | shape_settings
        | choices
        | roles
        | {"pixel_columns": pixels, "notes": notes}
    )
    return _measure(tables, description, choices)


def _measure(
    tables: Sequence[TableFile], description: DataDescription, choices: dict[str, Any]
) -> DataDescription:
    """Add channels, classes, counts and scale to a description, from all rows."""
    name, value_range, problem = tables[0].name, None, ""
    labels, splits = list[np.ndarray](), list[SplitName | None]()
    for rows in read_rows(tables, description, description.pixel_columns):
        pixels = _unpack(rows, description)
        if value_range is None:
            channels, height, width = infer_shape(name, pixels.shape[1], description)
            description = description.model_copy(update={"channels": channels})
        problem = problem or _find_invalid(rows, pixels, description, BYTE_WHITE)
        value_range = ValueRange.from_values(pixels).merge(value_range)
        labels.append(rows.labels[rows.kept])
        splits += rows.splits
    if value_range is None:
        raise DataError(f"{name} has a header and no rows" if tables[0].header else f"{name} has no rows")
    if min(height, width) < MIN_SIDE and not problem:
        raise DataError(
            f"{name}: the images have {width} × {height} pixels, accepted: {MIN_SIDE} or more a side"
        )
    values = {
        "scale": choices.get("scale") or choose_scale(name, value_range, problem),
        "classes": tuple(set(tidy_labels(np.concatenate(labels)).tolist())),
        "counts": count_splits(splits),
        "left_out": {"in no split": splits.count(None)} if None in splits else {},
    }
    return description.model_copy(update=values)


def read_pixel_tables(
    tables: Sequence[TableFile], description: DataDescription, allocate: Allocate = allocate_in_memory
) -> RawDataset:
    """Read the images of tables as `description` says, some rows at a time."""
    total, scale = sum(description.counts.values()), description.scale or BYTE_WHITE
    images, labels, places, splits = None, list[np.ndarray](), list[str](), list[SplitName]()
    groups = list[str]()
    for rows in read_rows(tables, description, description.pixel_columns):
        name, pixels = rows.table.name, _unpack(rows, description)
        if problem := _find_invalid(rows, pixels, description, scale):
            raise DataError(problem)
        part = shape_images(name, scale_to_uint8(pixels[rows.kept], scale), description)
        if images is None:
            if total * math.prod(part.shape[1:]) > MAX_PIXELS:
                raise DataError(f"{name} has more than {MAX_PIXELS:,} pixels")
            images = allocate((total, *part.shape[1:]))
        start, end = len(splits), len(splits) + len(part)
        if end > total:
            raise DataError(f"{name} got more rows while it was read, accepted: a complete table")
        images[start:end] = part
        labels.append(rows.labels[rows.kept])
        prefix = f"{name} " if len(tables) > 1 else ""
        places += [f"{prefix}row {rows.start + row + 1}" for row in rows.kept]
        splits += [split for split in rows.splits if split]
        groups += [rows.groups[row] for row in rows.kept]
    if images is None:
        raise DataError(f"{tables[0].name} has no rows")
    names = tidy_labels(np.concatenate(labels))
    group_names = np.array(groups) if description.has_groups else None
    all_rows = RawSplit(images[: len(splits)], names, np.array(places), group_names)
    return RawDataset(divide_by_split(all_rows, splits))


def _find_invalid(rows: Rows, pixels: np.ndarray, description: DataDescription, white: int) -> str:
    """Describe the first number that is not from 0 to `white`, or not whole if `white` is above 1."""
    is_valid = (pixels >= 0) & (pixels <= white)
    if white > 1:
        is_valid &= pixels == np.floor(pixels)
    if is_valid.all():
        return ""
    row, position = np.argwhere(~is_valid)[0].tolist()
    columns = description.pixel_columns
    is_packed = len(columns) == 1
    column = columns[0 if is_packed else position]
    value = pixels[row, position] if is_packed else rows.cells[column].iat[row]
    return (
        f"{rows.table.name} row {rows.start + row + 1}, column {column!r}: got {str(value)[:40]!r}, "
        f"accepted: {_describe_range(white)}"
    )


def _describe_range(white: int) -> str:
    return "fractions from 0 to 1" if white == 1 else f"whole numbers from 0 to {white}"


def _unpack(rows: Rows, description: DataDescription) -> np.ndarray:
    """Return the numbers of the pixel columns, (rows, pixels); NaN for what is no number."""
    columns = list(description.pixel_columns)
    if len(columns) == 1:
        arrays = [unpack_numbers(value) for value in rows.cells[columns[0]]]
        for row, numbers in enumerate(arrays, rows.start + 1):
            if numbers.shape != arrays[0].shape:
                got, first = (" × ".join(map(str, shape)) for shape in (numbers.shape, arrays[0].shape))
                got = f"{got} numbers, the first has {first}"
                raise DataError(f"{rows.table.name} row {row}, column {columns[0]!r}: got {got}")
        return np.stack(arrays).reshape(len(arrays), -1)
    values = rows.cells[columns].to_numpy()
    if values.dtype.kind not in "iufb":
        values = np.frompyfunc(parse_number, 1, 1)(values).astype(float)
    return values


def inspect_arrays(path: Path, choices: dict[str, Any]) -> DataDescription:
    """Describe an npz file by the names, shapes and values of its arrays."""
    with _open(path) as arrays:
        splits = choices.get("splits") or _find_splits(path, arrays.files)
        unread = sorted(set(arrays.files) - {name for pair in splits.values() for name in pair})
        notes = [f"Array {name!r} is not read" for name in unread]
        description = DataDescription.model_validate(
            {"source": path, "layout": "arrays"} | choices | {"splits": splits, "notes": notes}
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
    values = {
        "scale": choices.get("scale") or choose_scale(f"{path}: {image_keys}", value_range),
        "classes": tuple(classes),
        "counts": counts,
    }
    return description.model_copy(update=values)


def read_arrays(description: DataDescription) -> RawDataset:
    """Read the arrays that `description` names, with or without a test split; channels first or last."""
    path, scale, splits = description.source, description.scale or 255, dict[SplitName, RawSplit]()
    with _open(path) as arrays:
        for split, (image_key, label_key) in description.splits.items():
            images = _load_images(path, description, image_key, arrays[image_key])
            labels = _load_labels(path, label_key, arrays[label_key], len(images))
            if not (values := ValueRange.from_values(images)).fits(scale):
                raise DataError(f"{path}: {image_key} has {values}, accepted: {_describe_range(scale)}")
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
