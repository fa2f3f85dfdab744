"""Tables with the pixels and the label of an image in each row: inspection and reading."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from relearn.model.errors import DataError
from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import MIN_SIDE
from relearn.model.images.scale import BYTE_WHITE, ValueRange, list_plausible_scales, scale_to_uint8
from relearn.model.sources.columns import (
    GROUP_NAMES,
    find_label_columns,
    find_named,
    find_pixel_columns,
    find_planes,
    find_shape,
    find_split_column,
    infer_shape,
    is_index,
    unpack_numbers,
)
from relearn.model.sources.description import AmbiguousDataError, DataDescription, SplitName
from relearn.model.sources.raw_dataset import RawDataset, group_by_split
from relearn.model.sources.split_names import SPLITS, find_row_splits
from relearn.model.sources.tables import TableFile, format_labels, parse_number, tidy_labels

MAX_UNREAD_COLUMNS = 5  # beside label and pixels
MAX_PIXELS = 2**33  # values of all images of a table


def inspect_pixel_tables(source: Path, tables: Sequence[TableFile], given: dict[str, Any]) -> DataDescription:
    """Describe tables of pixels; every row is read once, for labels and the range of the values."""
    table = tables[0]
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
    known = {"interleaved": False} if find_planes(table.columns) == pixels else {}
    if len(pixels) == 1 and len(table.sample):
        known = find_shape(table.sample[pixels[0]].iloc[0])
    description = DataDescription.model_validate(
        {"source": source, "layout": "pixel_table"}
        | known
        | given
        | {
            "separator": table.separator,
            "header": table.header,
            "pixel_columns": pixels,
            "label_columns": labels,
            "split_column": split_column,
            "groups_column": group,
            "splits": given["splits"] if "splits" in given else find_row_splits(tables, split_column),
            "notes": [f"Column {name!r} is not read" for name in unread[:3]],
        }
    )
    count = len(_unpack(table, table.sample.head(1), pixels, 0)[0]) if len(table.sample) else len(pixels)
    channels, *_ = infer_shape(table.name, count, description)
    description = description.model_copy(update={"channels": channels})
    check_interleaved(table.name, count, description)
    return _measure(tables, description, given)


def check_interleaved(subject: str, pixels: int, description: DataDescription) -> None:
    """Raise AmbiguousDataError for color pixels in a row whose order is unknown."""
    if description.channels == 3 and description.interleaved is None:
        raise AmbiguousDataError(
            f"{subject} has {pixels} pixels in a row, those of a color image",
            [
                ("red, green and blue of each pixel are together", "interleaved = true"),
                ("all red ones come first, then green, then blue", "interleaved = false"),
            ],
        )


def read_pixel_tables(
    tables: Sequence[TableFile], description: DataDescription, allocate: Allocate = allocate_in_memory
) -> RawDataset:
    """Read the images of tables as `description` says, some rows at a time."""
    labels, places, splits = list[np.ndarray](), list[str](), list[str]()
    total, scale = sum(description.counts.values()), description.scale or BYTE_WHITE
    images, count = np.empty((0,), np.uint8), 0
    for rows in _read_rows(tables, description):
        if problem := rows.find_invalid(scale):
            raise DataError(problem)
        kept = np.array([split != "" for split in rows.splits])
        pixels = _shape(rows.table.name, scale_to_uint8(rows.pixels[kept], scale), description)
        if not labels:
            if total * pixels[0:1].size > MAX_PIXELS:
                raise DataError(f"{rows.table.name} has more than {MAX_PIXELS:,} pixels")
            images = allocate((total, *pixels.shape[1:]))
        if count + len(pixels) > total:
            raise DataError(f"{rows.table.name} got more rows while it was read, accepted: a complete table")
        images[count : count + len(pixels)] = pixels
        count += len(pixels)
        labels.append(rows.labels)
        prefix = f"{rows.table.name} " if len(tables) > 1 else ""
        places += [f"{prefix}row {rows.start + row}" for row in range(1, len(rows.labels) + 1)]
        splits += rows.splits
    if not labels:
        raise DataError(f"{tables[0].name} has no rows")
    kept = np.array([split != "" for split in splits])
    return RawDataset(
        group_by_split(
            images[:count],
            tidy_labels(np.concatenate(labels))[kept],
            np.array(places)[kept],
            cast(list[SplitName], [split for split in splits if split]),
        )
    )


def _shape(name: str, flat: np.ndarray, description: DataDescription) -> np.ndarray:
    """Reshape rows of pixels to images (n, channels, height, width)."""
    channels, height, width = infer_shape(name, flat.shape[1], description)
    if description.interleaved:
        return flat.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return flat.reshape(-1, channels, height, width)


def read_labels(
    table: TableFile, chunk: pd.DataFrame, description: DataDescription, start: int
) -> np.ndarray:
    """Read the labels of the rows of `chunk`, which starts at row `start`, as they are written."""
    columns = list(description.label_columns)
    if len(columns) == 1:
        labels = chunk[columns[0]]
        if names := (table.class_names or {}).get(columns[0]):
            labels = labels.astype(object).map(lambda value: names.get(value, value))
        return format_labels(table.name, labels, start)
    one_hot = chunk[columns].map(parse_number).to_numpy(float)
    invalid = np.flatnonzero(~np.isin(one_hot, (0, 1)).all(axis=1) | (one_hot.sum(axis=1) != 1))
    if len(invalid):
        raise DataError(f"{table.name} row {start + invalid[0] + 1} has no single 1 among its label columns")
    return np.array([columns[position] for position in one_hot.argmax(axis=1)])


def choose_scale(name: str, values: ValueRange, problem: str = "") -> int:
    """Return the value that is white; raise for values with two readings or none.

    `problem` describes the first value that is not a whole number from 0 to 255.
    """
    scales = list_plausible_scales(values)
    if len(scales) == 1 and scales[0] <= BYTE_WHITE:
        return scales[0]
    if not scales:
        raise DataError(
            (problem or f"{name}: got {values}, accepted: whole numbers from 0 to 255")
            + ", or fractions from 0 to 1"
        )
    subject = problem or f"{name}: the pixels are {values}"
    raise AmbiguousDataError(subject, [(f"{white} is white", f"scale = {white}") for white in scales])


@dataclass(frozen=True)
class _Rows:
    """Some rows of a table: pixels (rows, pixels), labels, and the split of each, "" if it has none."""

    table: TableFile
    start: int
    pixels: np.ndarray
    labels: np.ndarray
    splits: list[str]
    columns: tuple[str, ...]
    chunk: pd.DataFrame

    def find_invalid(self, white: int) -> str:
        """Describe the first number that is not from 0 to `white`, or not whole if `white` is above 1."""
        is_valid = (self.pixels >= 0) & (self.pixels <= white)
        if white > 1:
            is_valid &= self.pixels == np.floor(self.pixels)
        if is_valid.all():
            return ""
        row, column = np.argwhere(~is_valid)[0].tolist()
        is_packed = len(self.columns) == 1
        value = self.pixels[row, column] if is_packed else self.chunk[self.columns[column]].iat[row]
        place = f"{self.table.name} row {self.start + row + 1}, "
        place += f"column {self.columns[0 if is_packed else column]!r}"
        accepted = "fractions from 0 to 1" if white == 1 else f"whole numbers from 0 to {white}"
        return f"{place}: got {str(value)[:40]!r}, accepted: {accepted}"


def _read_rows(tables: Sequence[TableFile], description: DataDescription) -> Iterator[_Rows]:
    split_of = {value: split for split, parts in description.splits.items() for value in parts}
    columns, split_column = description.pixel_columns, description.split_column
    text_columns = [*description.label_columns, *([split_column] if split_column else [])]
    for table in tables:
        start = 0
        for chunk in table.read(text_columns, [*text_columns, *columns]):
            if not len(chunk):
                continue
            values = chunk[split_column].astype(str) if split_column else [table.name] * len(chunk)
            yield _Rows(
                table,
                start,
                _unpack(table, chunk, columns, start),
                read_labels(table, chunk, description, start),
                [split_of.get(value, "") if split_of else "train" for value in values],
                columns,
                chunk,
            )
            start += len(chunk)


def _measure(
    tables: Sequence[TableFile], description: DataDescription, given: dict[str, Any]
) -> DataDescription:
    """Add classes, counts and scale to a description, from all rows."""
    name, value_range, problem = tables[0].name, None, ""
    labels, splits, pixels = list[np.ndarray](), list[str](), 0
    for rows in _read_rows(tables, description):
        problem = problem or rows.find_invalid(BYTE_WHITE)
        value_range = ValueRange.from_values(rows.pixels).merge(value_range)
        pixels = rows.pixels.shape[1]
        labels.append(rows.labels)
        splits += rows.splits
    if value_range is None:
        raise DataError(f"{name} has a header and no rows" if tables[0].header else f"{name} has no rows")
    _, height, width = infer_shape(name, pixels, description)
    if min(height, width) < MIN_SIDE and not problem:
        raise DataError(
            f"{name}: the images have {width} × {height} pixels, accepted: {MIN_SIDE} or more a side"
        )
    counts = Counter(splits)
    used = {label for label, split in zip(tidy_labels(np.concatenate(labels)), splits, strict=True) if split}
    found = {
        "scale": given.get("scale") or choose_scale(name, value_range, problem),
        "classes": given.get("classes") or tuple(map(str, used)),
        "counts": {split: counts[split] for split in SPLITS if counts[split]},
        "left_out": {"in no split": counts[""]} if counts[""] else {},
    }
    return description.model_copy(update=found)


def _unpack(table: TableFile, chunk: pd.DataFrame, pixels: Sequence[str], start: int) -> np.ndarray:
    """Return the numbers of the pixel columns, (rows, pixels); NaN for what is no number."""
    if len(pixels) == 1:
        rows = [unpack_numbers(value) for value in chunk[pixels[0]]]
        for row, numbers in enumerate(rows, start + 1):
            if numbers.shape != rows[0].shape:
                got, first = (" × ".join(map(str, shape)) for shape in (numbers.shape, rows[0].shape))
                got = f"{got} numbers, the first has {first}"
                raise DataError(f"{table.name} row {row}, column {pixels[0]!r}: got {got}")
        return np.stack(rows).reshape(len(rows), -1)
    values = chunk[list(pixels)].to_numpy()
    if values.dtype.kind not in "iufb":
        values = np.frompyfunc(parse_number, 1, 1)(values).astype(float)
    return values
