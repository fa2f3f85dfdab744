"""Pixels of a table: their columns and order, the shape of an image, and the value that is white."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from relearn.model.description.source_description import AmbiguousDataError, DataDescription, compress_names
from relearn.model.errors import DataError
from relearn.model.images.scale import BYTE_WHITE, ValueRange, list_plausible_scales
from relearn.model.sources.columns import (
    GROUP_NAMES,
    ID_NAMES,
    LABEL_NAMES,
    SPLIT_NAMES,
    find_column,
    is_index,
)
from relearn.model.sources.tables import TableFile, parse_number

MAX_SIDE = 256  # pixels


def find_pixel_columns(table: TableFile, choices: dict[str, Any]) -> list[str]:
    """Return the pixel columns in the order of the numbers in their names, or in that of the file.

    They are a run of numbered names, else all columns that have no other role.
    """
    if choices.get("pixel_columns"):
        return list(choices["pixel_columns"])
    if packed := find_packed_column(table):
        return [packed]
    columns = [name for name in table.columns if not is_index(name)]
    if table.header and (numbered := find_planes(columns) or _find_numbered(table.name, columns)):
        return numbered
    label = find_column(columns, LABEL_NAMES) if table.header else None
    if label is None:
        label = _find_label_at_an_end(table, columns, choices)
    pixels = [name for name in columns if name != label]
    for roles in ((*SPLIT_NAMES, *GROUP_NAMES), ID_NAMES):
        if table.header and not _is_image_size(len(pixels)):
            pixels = [name for name in pixels if find_column([name], roles) is None]
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
    shape = np.shape(_stack(value)) if isinstance(value, (list, np.ndarray)) else ()
    if len(shape) == 2:
        return {"channels": 1, "width": shape[1]}
    if len(shape) == 3 and (shape[2] in (1, 3)) != (shape[0] in (1, 3)):
        is_last = shape[2] in (1, 3)
        channels, width = (shape[2], shape[1]) if is_last else (shape[0], shape[2])
        return {"channels": channels, "width": width, "interleaved": is_last if channels == 3 else None}
    return {}


def infer_shape(name: str, pixels: int, description: DataDescription | None = None) -> tuple[int, int, int]:
    """Return channels, height and width of an image of `pixels` values: as described, k × k, or 3 × k × k.

    Raises AmbiguousDataError for color pixels in an unknown order.
    """
    if description and description.width:
        channels: int = description.channels or 1
        height, width = pixels // (channels * description.width), description.width
        if not 0 < max(height, width) <= MAX_SIDE or channels * height * width != pixels:
            raise DataError(f"{name} has {pixels} pixels, accepted: rows of {width}")
    else:
        channels = next((count for count in (1, 3) if _is_square(pixels / count)), 0)
        height = width = math.isqrt(pixels // (channels or 1))
        if not channels or not 0 < width <= MAX_SIDE:
            raise DataError(
                f"{name} has {pixels} pixel columns beside its label, accepted: k × k for gray, such as "
                f"784 = 28 × 28, or 3 × k × k for color, such as 3072 = 3 × 32 × 32, with k up to "
                f"{MAX_SIDE}; write `width = …` into dataset.toml for images that are not square"
            )
    if description and channels == 3 and description.interleaved is None:
        raise AmbiguousDataError(
            f"{name} has {pixels} pixels in a row, those of a color image",
            {
                "red, green and blue of each pixel are together": {"interleaved": True},
                "all red ones come first, then green, then blue": {"interleaved": False},
            },
        )
    return channels, height, width


def shape_images(name: str, pixels: np.ndarray, description: DataDescription) -> np.ndarray:
    """Reshape rows of pixels, (n, pixels), to images (n, channels, height, width)."""
    channels, height, width = infer_shape(name, pixels.shape[1], description)
    if description.interleaved:
        return pixels.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return pixels.reshape(-1, channels, height, width)


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
    raise AmbiguousDataError(subject, {f"{white} is white": {"scale": white} for white in scales})


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
            {
                "the first is the row": {"pixel_columns": compress_names(ordered)},
                "the first is the column": {"pixel_columns": compress_names(swapped)},
            },
        )
    if len(set(values)) < len(values):
        return []
    if len(values[0]) == 1 and values[-1][0] - values[0][0] != len(values) - 1:
        return []
    return ordered if _is_image_size(len(ordered)) else []


def _is_image_size(pixels: int) -> bool:
    return any(_is_square(pixels / count) for count in (1, 3))


def _is_square(number: float) -> bool:
    return math.isqrt(int(number)) ** 2 == number


def _find_label_at_an_end(table: TableFile, columns: Sequence[str], choices: dict[str, Any]) -> str:
    """Return the first or the last column: the one that repeats few values, as classes do."""
    if choices.get("label_columns"):
        return str(choices["label_columns"][0])
    if len(columns) < 2:
        infer_shape(table.name, 0)
    first, last = columns[0], columns[-1]
    if table.header and _is_image_size(len(columns)):
        raise DataError(f"{table.name} has no column 'label': it starts with {first!r}, {columns[1]!r}")
    counts = {name: table.sample[name].astype(str).nunique() for name in (first, last)}
    words = [name for name in counts if np.isnan(table.sample[name].map(parse_number)).any()]
    if len(words) == 1:
        return words[0]
    likely = [name for name in counts if name in words or 2 <= counts[name] <= max(2, len(table.sample) // 2)]
    if len(likely) == 2 and max(counts.values()) > 128 and max(counts.values()) >= 4 * min(counts.values()):
        return min(counts, key=counts.__getitem__)
    if len(likely) == 1:
        return likely[0]
    raise AmbiguousDataError(
        f"{table.name} has no column 'label'",
        {
            f"the {place} column is the label, with {counts[name]} classes": {"label_columns": [name]}
            for place, name in (("first", first), ("last", last))
        },
    )


def _is_packed(values: pd.Series) -> bool:
    return bool(len(values)) and unpack_numbers(values.iloc[0]).size >= 4


def unpack_numbers(value: Any) -> np.ndarray:
    """Return the numbers in a list or in a string such as "1 2 3"; an empty array for any other value."""
    if isinstance(value, str):
        texts = re.split(r"[\s,;]+", value.strip(" \t[]()"))
        numbers = np.array([parse_number(text) for text in texts])
        return numbers if len(texts) >= 4 and not np.isnan(numbers).any() else np.empty(0)
    return _stack(value) if isinstance(value, (list, np.ndarray)) else np.empty(0)


def _stack(value: Any) -> np.ndarray:
    """Return nested lists, or arrays of arrays, as one array; an empty one if they are ragged."""
    try:
        if isinstance(value, (list, np.ndarray)) and len(value) and np.ndim(value[0]):
            return np.stack([_stack(item) for item in value])
        return np.asarray(value, dtype=float)
    except (ValueError, TypeError):
        return np.empty(0)
