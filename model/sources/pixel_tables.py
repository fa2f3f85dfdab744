"""Tables with the pixels and the label of an image in each row: inspection and reading."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relearn.model.errors import DataError
from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import MIN_SIDE
from relearn.model.images.scale import BYTE_WHITE, ValueRange, scale_to_uint8
from relearn.model.sources.columns import Rows, find_roles, is_index, read_rows
from relearn.model.sources.description import DataDescription, SplitName
from relearn.model.sources.pixel_columns import (
    choose_scale,
    find_pixel_columns,
    find_planes,
    find_shape,
    infer_shape,
    shape_images,
    unpack_numbers,
)
from relearn.model.sources.raw_dataset import RawDataset, count_splits, group_by_split
from relearn.model.sources.tables import TableFile, parse_number, tidy_labels

MAX_UNREAD_COLUMNS = 5  # beside label and pixels
MAX_PIXELS = 2**33  # values of all images of a table


def inspect_pixel_tables(source: Path, tables: Sequence[TableFile], given: dict[str, Any]) -> DataDescription:
    """Describe tables of pixels; every row is read once, for labels and the range of the values."""
    table = tables[0]
    pixels = find_pixel_columns(table, given)
    others = [name for name in table.columns if name not in set(pixels) and not is_index(name)]
    roles = find_roles(tables, others, given)
    read = {*roles["label_columns"], roles["split_column"], roles["groups_column"]}
    unread = [name for name in others if name not in read]
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
    notes = [f"Column {name!r} is not read" for name in unread[:3]]
    description = DataDescription.model_validate(
        {"source": source, "layout": "pixel_table"}
        | known
        | given
        | roles
        | {"pixel_columns": pixels, "notes": notes}
    )
    return _measure(tables, description, given)


def _measure(
    tables: Sequence[TableFile], description: DataDescription, given: dict[str, Any]
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
    found = {
        "scale": given.get("scale") or choose_scale(name, value_range, problem),
        "classes": tuple(set(tidy_labels(np.concatenate(labels)).tolist())),
        "counts": count_splits(splits),
        "left_out": {"in no split": splits.count(None)} if None in splits else {},
    }
    return description.model_copy(update=found)


def read_pixel_tables(
    tables: Sequence[TableFile], description: DataDescription, allocate: Allocate = allocate_in_memory
) -> RawDataset:
    """Read the images of tables as `description` says, some rows at a time."""
    total, scale = sum(description.counts.values()), description.scale or BYTE_WHITE
    images, labels, places, splits = None, list[np.ndarray](), list[str](), list[SplitName]()
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
    if images is None:
        raise DataError(f"{tables[0].name} has no rows")
    names = tidy_labels(np.concatenate(labels))
    return RawDataset(group_by_split(images[: len(splits)], names, np.array(places), splits))


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
    accepted = "fractions from 0 to 1" if white == 1 else f"whole numbers from 0 to {white}"
    return (
        f"{rows.table.name} row {rows.start + row + 1}, column {column!r}: got {str(value)[:40]!r}, "
        f"accepted: {accepted}"
    )


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
