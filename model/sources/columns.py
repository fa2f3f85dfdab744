"""Roles of the columns of a table: label, split, group, and pixels in their order."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from relearn.model.errors import DataError
from relearn.model.sources.description import (
    AmbiguousDataError,
    DataDescription,
    compress_names,
    to_toml_value,
)
from relearn.model.sources.split_names import find_split
from relearn.model.sources.tables import TableFile, parse_number

MAX_SIDE = 256  # pixels
# The first of these in a table is its label.
LABEL_NAMES = (
    *("label", "class", "target", "labels", "classes", "targets", "class_name", "classname", "label_name"),
    *("category", "y", "ground_truth", "gt"),
)
SPLIT_NAMES = ("split", "usage", "set", "subset", "partition", "dataset", "phase")
GROUP_NAMES = ("group", "patient", "patient_id", "subject", "subject_id", "writer", "user", "session")
ID_NAMES = ("id", "index", "idx", "image_id", "imageid", "uid", "uuid", "row", "row_id", "rowid", "number")
SIZE_NAMES = ("width", "height", "channels", "image_width", "image_height")


def find_label_columns(table: TableFile, others: Sequence[str], given: dict[str, Any]) -> tuple[str, ...]:
    """Return the label column among `others`, the columns without another role, or several one-hot ones."""
    if given.get("label_columns"):
        return tuple(given["label_columns"])
    named = find_named(others, LABEL_NAMES)
    if named is not None:
        _check_only_label(table, named, others)
        return (named,)
    candidates = [name for name in others if find_named([name], (*ID_NAMES, *SIZE_NAMES)) is None]
    candidates = [name for name in candidates if _repeats(table.sample[name])]
    if len(candidates) == 1:
        return (candidates[0],)
    if len(candidates) > 1 and _is_one_hot(table.sample[candidates]):
        return tuple(candidates)
    if not candidates and len(table.columns) == 1:
        raise DataError(f"{table.name} has no label column beside {table.columns[0]!r}")
    if not candidates:
        start = ", ".join(map(repr, table.columns[:2]))
        raise DataError(f"{table.name} has no column 'label': it starts with {start}")
    raise AmbiguousDataError(
        f"{table.name} has no column 'label', but {', '.join(map(repr, candidates[:6]))}",
        [(f"the label is {name!r}", f"label_columns = {to_toml_value([name])}") for name in candidates[:2]],
    )


def _check_only_label(table: TableFile, label: str, others: Sequence[str]) -> None:
    """Raise for a second column that is called like a label and divides the images in another way."""
    for name in others:
        if name == label or find_named([name], LABEL_NAMES) is None:
            continue
        pairs = table.sample[[label, name]].astype(str).drop_duplicates()
        if not len(pairs) == pairs[label].nunique() == pairs[name].nunique():
            raise AmbiguousDataError(
                f"{table.name} has two label columns",
                [
                    (f"the label is {column!r}", f"label_columns = {to_toml_value([column])}")
                    for column in (label, name)
                ],
            )


def _repeats(values: pd.Series) -> bool:
    """Return True for values that repeat, as classes do; captions, dates and paths do not."""
    return bool(values.astype(str).nunique() <= max(2, len(values) // 2))


def find_split_column(table: TableFile, others: Sequence[str], given: dict[str, Any]) -> str | None:
    """Return the column whose values are all names of splits."""
    if "split_column" in given:
        return given["split_column"]  # type: ignore[no-any-return]
    name = find_named(others, SPLIT_NAMES)
    if name is None:
        return None
    values = sorted(set(table.sample[name].astype(str)))
    if all(map(find_split, values)):
        return name
    if {"Training", "PublicTest", "PrivateTest"} >= set(values) and len(values) > 1:
        both = '{train = ["Training"], test = ["PublicTest", "PrivateTest"]}'
        apart = '{train = ["Training"], validation = ["PublicTest"], test = ["PrivateTest"]}'
        if "splits" in given:
            return name
        raise AmbiguousDataError(
            f"{table.name} has the column {name!r} with {', '.join(values)}",
            [
                ("PublicTest is the validation split", f"splits = {apart}"),
                ("both are the test split", f"splits = {both}"),
            ],
        )
    return None


def find_pixel_columns(table: TableFile, given: dict[str, Any]) -> list[str]:
    """Return the pixel columns in the order of the numbers in their names, or in that of the file.

    They are a run of numbered names, else all columns that have no other role.
    """
    if given.get("pixel_columns"):
        return list(given["pixel_columns"])
    if packed := find_packed_column(table):
        return [packed]
    columns = [name for name in table.columns if not is_index(name)]
    if table.header and (numbered := find_planes(columns) or _find_numbered(table.name, columns)):
        return numbered
    label = find_named(columns, LABEL_NAMES) if table.header else None
    if label is None:
        label = _find_label_at_an_end(table, columns, given)
    pixels = [name for name in columns if name != label]
    for roles in ((*SPLIT_NAMES, *GROUP_NAMES), ID_NAMES):
        if table.header and not _is_image_size(len(pixels)):
            pixels = [name for name in pixels if find_named([name], roles) is None]
    return pixels


def find_packed_column(table: TableFile) -> str:
    """Return the only column that holds all pixels of an image, as a list or a text; "" if none does."""
    packed = [name for name in table.columns if _is_packed(table.sample[name])]
    return packed[0] if len(packed) == 1 else ""


def find_planes(columns: Sequence[str]) -> list[str]:
    """Return the columns of red, green and blue pixels, such as r0, g0, b0, r1, …, plane after plane.

    [] without three groups of the same numbers, without a gap, for a square.
    """
    planes = defaultdict[str, dict[int, str]](dict)
    for name in columns:
        if match := re.fullmatch(r"(r|g|b|red|green|blue)[ _.-]?(\d+)", name, re.IGNORECASE):
            planes[match[1][0].lower()][int(match[2])] = name
    red = planes["r"]
    if not red or not red.keys() == planes["g"].keys() == planes["b"].keys():
        return []
    numbers = sorted(red)
    if numbers[-1] - numbers[0] != len(numbers) - 1 or not _is_image_size(len(numbers)):
        return []
    return [planes[color][number] for color in "rgb" for number in numbers]


def find_shape(value: Any) -> dict[str, Any]:
    """Return the keys of a description that nested lists of pixels say; {} for a flat list or a text."""
    if not isinstance(value, (list, np.ndarray)):
        return {}
    shape = np.shape(_stack(value))
    if len(shape) == 2:
        return {"channels": 1, "width": shape[1]}
    if len(shape) == 3 and (shape[2] in (1, 3)) != (shape[0] in (1, 3)):
        is_last = shape[2] in (1, 3)
        channels, width = (shape[2], shape[1]) if is_last else (shape[0], shape[2])
        return {"channels": channels, "width": width, "interleaved": is_last if channels == 3 else None}
    return {}


def infer_shape(name: str, pixels: int, known: DataDescription | None = None) -> tuple[int, int, int]:
    """Return channels, height and width of an image of `pixels` values: as `known`, k × k, or 3 × k × k."""
    if known and known.width:
        channels = known.channels or 1
        height = pixels // (channels * known.width)
        if 0 < max(height, known.width) <= MAX_SIDE and channels * height * known.width == pixels:
            return channels, height, known.width
        raise DataError(f"{name} has {pixels} pixels, accepted: rows of {known.width}")
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if 0 < side <= MAX_SIDE and channels * side**2 == pixels:
            return channels, side, side
    raise DataError(
        f"{name} has {pixels} pixel columns beside its label, accepted: k × k for grey, such as "
        f"784 = 28 × 28, or 3 × k × k for colour, such as 3072 = 3 × 32 × 32, with k up to {MAX_SIDE}; write "
        "`width = …` into dataset.toml for images that are not square"
    )


def find_named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first column that is called like one of `names`, in the order of these."""
    by_name = {column.lower().replace(" ", "_").replace("-", "_"): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def is_index(name: str) -> bool:
    """Return True for a column that pandas wrote for its index."""
    return re.fullmatch(r"(__index_level_.*|Unnamed: .*)?( \(\d+\))?", name) is not None


def _find_numbered(table_name: str, columns: Sequence[str]) -> list[str]:
    """Return the columns of the largest group of names that differ only in numbers, in their order.

    One number a name must count without a gap; two or more, row and column, must be different pairs.
    """
    groups = defaultdict[str, list[str]](list)
    for name in columns:
        groups[re.sub(r"\d+", "#", name)].append(name)
    _, names = max(groups.items(), key=lambda item: len(item[1]), default=("", []))
    numbers = {name: tuple(map(int, re.findall(r"\d+", name))) for name in names}
    if len(names) < 4 or not numbers[names[0]]:
        return []
    ordered = sorted(names, key=numbers.__getitem__)
    values = [numbers[name] for name in ordered]
    if len(values[0]) > 1 and ordered != names:
        swapped = sorted(names, key=lambda name: numbers[name][::-1])
        raise AmbiguousDataError(
            f"{table_name}: the numbers in {names[0]!r}, {names[1]!r}, … do not give their order",
            [
                ("the first is the row", f"pixel_columns = {to_toml_value(compress_names(ordered))}"),
                ("the first is the column", f"pixel_columns = {to_toml_value(compress_names(swapped))}"),
            ],
        )
    if len(set(values)) < len(values):
        return []
    if len(values[0]) == 1 and values[-1][0] - values[0][0] != len(values) - 1:
        return []
    return ordered if _is_image_size(len(ordered)) else []


def _is_image_size(pixels: int) -> bool:
    return any(count * math.isqrt(pixels // count) ** 2 == pixels for count in (1, 3))


def _find_label_at_an_end(table: TableFile, columns: Sequence[str], given: dict[str, Any]) -> str:
    """Return the first or the last column: the one that repeats few values, as classes do."""
    if given.get("label_columns"):
        return str(given["label_columns"][0])
    if len(columns) < 2:
        infer_shape(table.name, 0)
    first, last = columns[0], columns[-1]
    if table.header and _is_image_size(len(columns)):
        raise DataError(f"{table.name} has no column 'label': it starts with {first!r}, {columns[1]!r}")
    counts = {name: table.sample[name].astype(str).nunique() for name in (first, last)}
    rows = len(table.sample)
    is_text = {name: bool(np.isnan(table.sample[name].map(parse_number)).any()) for name in (first, last)}
    likely = [name for name in (first, last) if is_text[name] or 2 <= counts[name] <= max(2, rows // 2)]
    if is_text[first] != is_text[last]:
        return first if is_text[first] else last
    if len(likely) == 2 and max(counts.values()) > 128 and max(counts.values()) >= 4 * min(counts.values()):
        return min(counts, key=counts.__getitem__)
    if len(likely) == 1:
        return likely[0]
    raise AmbiguousDataError(
        f"{table.name} has no column 'label'",
        [
            (
                f"the {place} column is the label, with {counts[name]} classes",
                f"label_columns = {to_toml_value([name])}",
            )
            for place, name in (("first", first), ("last", last))
        ],
    )


def _is_packed(values: pd.Series) -> bool:
    """Return True for a column whose every value is a list of numbers, or a text of them."""
    if values.dtype.kind in "iufb" or not len(values):
        return False
    return unpack_numbers(values.iloc[0]).size >= 4


def unpack_numbers(value: Any) -> np.ndarray:
    """Return the numbers of a list or of a text such as "1 2 3"; an empty array for anything else."""
    if isinstance(value, str):
        parts = re.split(r"[\s,;]+", value.strip(" \t[]()"))
        numbers = np.array([parse_number(part) for part in parts])
        return numbers if len(parts) >= 4 and not np.isnan(numbers).any() else np.empty(0)
    return _stack(value) if isinstance(value, (list, np.ndarray)) else np.empty(0)


def _stack(value: Any) -> np.ndarray:
    """Return nested lists, or arrays of arrays, as one array; an empty one if they are ragged."""
    try:
        if isinstance(value, (list, np.ndarray)) and len(value) and np.ndim(value[0]):
            return np.stack([_stack(item) for item in value])
        return np.asarray(value, dtype=float)
    except (ValueError, TypeError):
        return np.empty(0)


def _is_one_hot(frame: pd.DataFrame) -> bool:
    values = frame.map(parse_number).to_numpy(float)
    return bool(len(values) and np.isin(values, (0, 1)).all() and (values.sum(axis=1) == 1).all())
