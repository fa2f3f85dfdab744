"""Tables with the pixels and the label of an image in each row: inspection and reading."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relearn.model.data.columns import (
    GROUP_NAMES,
    find_label_columns,
    find_named,
    find_pixel_columns,
    find_split_column,
    infer_shape,
    is_index,
    unpack_numbers,
)
from relearn.model.data.description import AmbiguousDataError, DataDescription, SplitName
from relearn.model.data.raw_dataset import RawDataset, group_by_split
from relearn.model.data.split_names import match_splits
from relearn.model.data.tables import TableFile, format_class_names, parse_number
from relearn.model.errors import DataError
from relearn.model.images.decode import MIN_SIDE
from relearn.model.images.scale import ValueRange, list_plausible_scales, scale_to_uint8

MAX_UNREAD_COLUMNS = 5  # beside label and pixels
MAX_PIXELS = 2**33  # values of all images of a table


def inspect_pixel_table(source: Path, table: TableFile, given: dict[str, Any]) -> DataDescription:
    """Describe a table of pixels; every row is read once, for labels and the range of the values."""
    pixels = find_pixel_columns(table, given)
    others = [name for name in table.columns if name not in set(pixels) and not is_index(name)]
    split_column = find_split_column(table, others, given)
    group = find_named([name for name in others if name != split_column], GROUP_NAMES)
    labels = find_label_columns(table, [name for name in others if name not in (split_column, group)], given)
    unread = [name for name in others if name not in (split_column, group, *labels)]
    if len(unread) > MAX_UNREAD_COLUMNS:
        first = ", ".join(map(repr, unread[:3]))
        raise DataError(
            f"{table.name}: {first} and {len(unread) - 3} more columns are neither "
            "pixels nor a label, accepted: pixels numbered in one way, or listed in a dataset.toml as "
            "`pixel_columns = […]`"
        )
    count = len(_unpack(table, table.sample.head(1), pixels, 0)[0]) if len(table.sample) else len(pixels)
    channels, *_ = infer_shape(table.name, count)
    interleaved = given.get("interleaved")
    if channels == 3 and interleaved is None:
        raise AmbiguousDataError(
            f"{table.name} has {count} pixels in a row, those of a color image",
            [
                ("red, green and blue of each pixel are together", "interleaved = true"),
                ("all red ones come first, then green, then blue", "interleaved = false"),
            ],
        )
    description = DataDescription.model_validate(
        {"source": source, "layout": "pixel_table"}
        | given
        | {
            "separator": table.separator,
            "header": table.header,
            "pixel_columns": pixels,
            "label_columns": labels,
            "split_column": split_column,
            "groups_column": group,
            "channels": channels,
            "interleaved": interleaved,
            "notes": [f"Column {name!r} is not read" for name in unread[:3]],
        }
    )
    return _measure(table, description, given)


def read_pixel_table(table: TableFile, description: DataDescription) -> RawDataset:
    """Read the images of a table as `description` says."""
    pixels, text_columns = list(description.pixel_columns), _text_columns(description)
    images, labels, values = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    start, scale = 0, description.scale or 255
    for chunk in table.read(text_columns, [*text_columns, *pixels]):
        numbers = _unpack(table, chunk, pixels, start)
        problem = _find_invalid(table, chunk, pixels, numbers, start, scale)
        if problem:
            raise DataError(problem)
        images.append(scale_to_uint8(numbers, scale))
        if len(images) * images[0].size > MAX_PIXELS:
            raise DataError(f"{table.name} has more than {MAX_PIXELS:,} pixels")
        labels.append(read_labels(table, chunk, description, start))
        values.append(_split_values(chunk, description))
        start += len(chunk)
    if not images:
        raise DataError(f"{table.name} has no rows")
    rows = np.concatenate(images)
    channels, height, width = infer_shape(table.name, rows.shape[1])
    shaped = rows.reshape(-1, channels, height, width)
    if description.interleaved:
        shaped = np.ascontiguousarray(rows.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))
    places = np.array([f"row {row}" for row in range(1, len(rows) + 1)])
    splits, is_placed = assign_splits(description, np.concatenate(values))
    return RawDataset(
        group_by_split(shaped[is_placed], np.concatenate(labels)[is_placed], places[is_placed], splits)
    )


def read_labels(
    table: TableFile, chunk: pd.DataFrame, description: DataDescription, start: int
) -> np.ndarray:
    """Read the class names of the rows of `chunk`, which starts at row `start`."""
    columns = list(description.label_columns)
    if len(columns) == 1:
        labels = chunk[columns[0]]
        if names := (table.class_names or {}).get(columns[0]):
            labels = labels.astype(object).map(lambda value: names.get(value, value))
        return format_class_names(table.name, labels, start)
    one_hot = chunk[columns].map(parse_number).to_numpy(float)
    invalid = np.flatnonzero(~np.isin(one_hot, (0, 1)).all(axis=1) | (one_hot.sum(axis=1) != 1))
    if len(invalid):
        raise DataError(f"{table.name} row {start + invalid[0] + 1} has no single 1 among its label columns")
    return np.array([columns[position] for position in one_hot.argmax(axis=1)])


def assign_splits(description: DataDescription, values: np.ndarray) -> tuple[list[SplitName], np.ndarray]:
    """Return the splits of the rows that have one, and which rows these are."""
    split_of = {value: split for split, parts in description.splits.items() for value in parts}
    if description.split_column is None:
        return ["train"] * len(values), np.ones(len(values), bool)
    splits = [split_of.get(value) for value in values.tolist()]
    return [split for split in splits if split], np.array([split is not None for split in splits])


def describe_splits(
    table: TableFile,
    description: DataDescription,
    values: np.ndarray,
    labels: np.ndarray,
    given: dict[str, Any],
) -> DataDescription:
    """Add splits, classes and counts to a description, from the split values and labels of all rows."""
    splits = given.get("splits") or (
        match_splits(np.unique(values).tolist()) if description.split_column else {}
    )
    if description.split_column and not splits:
        raise DataError(f"{table.name}: no value of {description.split_column!r} is the training split")
    description = description.model_copy(update={"splits": splits})
    row_splits, is_placed = assign_splits(description, values)
    counts = Counter(row_splits)
    return description.model_copy(
        update={
            "classes": given.get("classes") or tuple(np.unique(labels[is_placed]).tolist()),
            "counts": {split: counts[split] for split in ("train", "validation", "test") if counts[split]},
            "left_out": {"in no split": int((~is_placed).sum())} if not is_placed.all() else {},
        }
    )


def _measure(table: TableFile, description: DataDescription, given: dict[str, Any]) -> DataDescription:
    pixels, text_columns = list(description.pixel_columns), _text_columns(description)
    value_range, problem, start = None, "", 0
    labels, values = list[np.ndarray](), list[np.ndarray]()
    for chunk in table.read(text_columns, [*text_columns, *pixels]):
        if not len(chunk):
            continue
        numbers = _unpack(table, chunk, pixels, start)
        problem = problem or _find_invalid(table, chunk, pixels, numbers, start, 255)
        value_range = ValueRange.from_values(numbers).merge(value_range)
        labels.append(read_labels(table, chunk, description, start))
        values.append(_split_values(chunk, description))
        start += len(chunk)
    if value_range is None:
        raise DataError(
            f"{table.name} has a header and no rows" if table.header else f"{table.name} has no rows"
        )
    _, height, width = infer_shape(table.name, numbers.shape[1])
    if height < MIN_SIDE and not problem:
        raise DataError(
            f"{table.name}: the images have {width} × {height} pixels, accepted: {MIN_SIDE} or more a side"
        )
    scale = given.get("scale") or choose_scale(table.name, value_range, problem)
    description = description.model_copy(update={"scale": scale})
    return describe_splits(table, description, np.concatenate(values), np.concatenate(labels), given)


def choose_scale(name: str, values: ValueRange, problem: str = "") -> int:
    """Return the value that is white; raise for values with two readings or none.

    `problem` describes the first value that is not a whole number from 0 to 255.
    """
    scales = list_plausible_scales(values)
    if len(scales) == 1:
        return scales[0]
    if not scales:
        raise DataError(
            (problem or f"{name}: got {values}, accepted: whole numbers from 0 to 255")
            + ", or fractions from 0 to 1"
        )
    subject = problem or f"{name}: the pixels are {values}"
    raise AmbiguousDataError(subject, [(f"{white} is white", f"scale = {white}") for white in scales])


def _text_columns(description: DataDescription) -> list[str]:
    split = [description.split_column] if description.split_column else []
    return [*description.label_columns, *split]


def _split_values(chunk: pd.DataFrame, description: DataDescription) -> np.ndarray:
    if description.split_column is None:
        return np.full(len(chunk), "")
    return chunk[description.split_column].astype(str).to_numpy(dtype=str)


def _unpack(table: TableFile, chunk: pd.DataFrame, pixels: Sequence[str], start: int) -> np.ndarray:
    """Return the numbers of the pixel columns, (rows, pixels); NaN for what is no number."""
    if len(pixels) == 1:
        rows = [unpack_numbers(value) for value in chunk[pixels[0]]]
        lengths = Counter(map(len, rows))
        if len(lengths) > 1:
            odd = next(row for row, numbers in enumerate(rows) if len(numbers) != len(rows[0]))
            got = f"{len(rows[odd])} numbers, the first has {len(rows[0])}"
            raise DataError(f"{table.name} row {start + odd + 1}, column {pixels[0]!r}: got {got}")
        return np.stack(rows)
    values = chunk[list(pixels)].to_numpy()
    if values.dtype.kind not in "iufb":
        values = np.frompyfunc(parse_number, 1, 1)(values).astype(float)
    return values


def _find_invalid(
    table: TableFile, chunk: pd.DataFrame, pixels: Sequence[str], numbers: np.ndarray, start: int, white: int
) -> str:
    """Describe the first number that is not from 0 to `white`, or not whole if `white` is above 1."""
    is_valid = (numbers >= 0) & (numbers <= white)
    if white > 1:
        is_valid &= numbers == np.floor(numbers)
    if is_valid.all():
        return ""
    row, column = np.argwhere(~is_valid)[0].tolist()
    value = chunk[pixels[column]].iat[row] if len(pixels) > 1 else numbers[row, column]
    place = f"{table.name} row {start + row + 1}, column {pixels[min(column, len(pixels) - 1)]!r}"
    accepted = "fractions from 0 to 1" if white == 1 else f"whole numbers from 0 to {white}"
    return f"{place}: got {str(value)[:40]!r}, accepted: {accepted}"
