"""Image tables: a row of pixels for each image in CSV or Parquet, or image files in a Parquet column."""

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relearn.model.errors import DataError
from relearn.model.images.decode_many import decode_images

ImageTable = tuple[np.ndarray, np.ndarray, list[str]]
"""Images, uint8 (n, channels, height, width); class names, str (n,); notes."""

CHUNK_ROWS = 4096  # read at a time: 26 MB of int64 at 785 columns
MAX_SIDE = 256  # pixels
MAX_LINE_BYTES = 2**22  # 3 × 256 × 256 pixels take 0.8 MB
LABEL_COLUMNS, IMAGE_COLUMNS = ("label", "class", "target"), ("image", "img")


def read_csv(path: Path) -> ImageTable:
    """Read a table of pixels, separated by comma, semicolon or tab, with or without a header."""
    separator, first_row = _read_first_line(path)
    has_header = any(math.isnan(_parse_number(cell)) for cell in first_row[1:])
    column_names = first_row if has_header else [f"{position}" for position in range(1, len(first_row) + 1)]
    try:
        with pd.read_csv(
            path,
            sep=separator,
            header=None,
            skiprows=int(has_header),
            dtype={_find_label_column(path, column_names): str},
            keep_default_na=False,  # a class may be called "none"
            encoding="utf-8-sig",
            low_memory=False,
            chunksize=CHUNK_ROWS,
        ) as chunks:
            return _read_pixel_table(path, column_names, chunks)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} has a header and no rows") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a table of pixels: {error}") from None


def read_parquet(path: Path, size: int | None = None) -> ImageTable:
    """Read a table of pixels, or the columns `image` (PNG or JPEG) and `label` that dataset hubs use."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            column_names = file.schema_arrow.names
            image_column = next((name for name in column_names if name in IMAGE_COLUMNS), None)
            if image_column is None:
                frames = (batch.to_pandas(ignore_metadata=True) for batch in file.iter_batches(CHUNK_ROWS))
                return _read_pixel_table(path, column_names, frames)
            column_names.remove(image_column)
            if not column_names:
                raise DataError(f"{path} has no label column beside {image_column!r}")
            label_column = column_names[_find_label_column(path, column_names)]
            table = file.read([image_column, label_column])
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from None
    named_images = [
        (f"row {row}", _image_bytes(value)) for row, value in enumerate(table[image_column].to_pylist(), 1)
    ]
    images, notes = decode_images(named_images, size)
    class_names = _read_hub_class_names(table.schema.metadata, label_column)
    labels = pd.Series(table[label_column].to_pylist(), dtype=object)
    if class_names:
        labels = labels.map(lambda value: class_names.get(value, value))
    return images, _parse_class_names(path, labels, 0), notes


def as_uint8(values: np.ndarray, describe_position: Callable[[tuple[int, ...]], str]) -> np.ndarray:
    """Convert numbers to uint8; raise `DataError` with the position of one that is no integer 0–255."""
    is_invalid = ~((values >= 0) & (values <= 255) & (values == np.floor(values)))
    if is_invalid.any():
        index = tuple(np.argwhere(is_invalid)[0].tolist())
        is_scaled = 0 < values[index] < 1 and np.nanmax(values) <= 1
        hint = "; values scaled to 0–1 must be multiplied by 255 and rounded" if is_scaled else ""
        raise DataError(f"{describe_position(index)}, accepted: whole numbers from 0 to 255{hint}")
    return values.astype(np.uint8)


def _read_first_line(path: Path) -> tuple[str, list[str]]:
    with path.open("rb") as file:
        line = file.readline(MAX_LINE_BYTES)
    if not line.strip():
        raise DataError(f"{path} has an empty first line, accepted: column names, or a label and pixels")
    if len(line) == MAX_LINE_BYTES:
        raise DataError(f"{path} has a first line of more than {MAX_LINE_BYTES:,} bytes: too many columns")
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from None
    separator = max(",;\t", key=text.count)
    return separator, [cell.strip() for cell in next(csv.reader([text], delimiter=separator), [])]


def _read_pixel_table(path: Path, column_names: Sequence[str], chunks: Iterable[pd.DataFrame]) -> ImageTable:
    """Read one image per row: the column label, class or target, else the first, is the label.

    The other columns are pixels, row by row; colour images have a red, a green and a blue plane. Columns
    that pandas wrote for its index (no name, or `__index_level_0__`) are ignored.
    """
    label_column = _find_label_column(path, column_names)
    pixel_columns = [
        position
        for position, name in enumerate(column_names)
        if position != label_column and not _is_index(name)
    ]
    shape = _infer_shape(path, len(pixel_columns))
    images, labels, row_count = [], [], 0
    for chunk in chunks:
        if len(chunk.columns) != len(column_names):
            raise DataError(
                f"{path} has {len(column_names)} columns in its first line, {len(chunk.columns)} below"
            )
        images.append(
            _to_pixels(
                path,
                chunk.iloc[:, pixel_columns],
                [column_names[position] for position in pixel_columns],
                row_count,
            )
        )
        labels.append(_parse_class_names(path, chunk.iloc[:, label_column], row_count))
        row_count += len(chunk)
    if not row_count:
        raise DataError(f"{path} has no rows")
    return np.concatenate(images).reshape(-1, *shape), np.concatenate(labels), []


def _to_pixels(path: Path, frame: pd.DataFrame, column_names: Sequence[str], start: int) -> np.ndarray:
    values = frame.to_numpy()
    if values.dtype == object:
        values = np.frompyfunc(_parse_number, 1, 1)(values).astype(float)

    def describe_position(index: tuple[int, ...]) -> str:
        row, column = index
        got = str(frame.iat[row, column])[:40]
        return f"{path} row {start + row + 1}, column {column_names[column]!r}: got {got!r}"

    return as_uint8(values, describe_position)


def _parse_class_names(path: Path, labels: pd.Series, start: int) -> np.ndarray:
    if labels.dtype == object and not labels.map(pd.api.types.is_hashable).all():
        got = str(labels[~labels.map(pd.api.types.is_hashable)].iloc[0])[:40]
        raise DataError(f"{path}: got the label {got!r}, accepted: a name or a number")
    names = labels.map({value: _format_class_name(value) for value in labels.unique()})
    missing = np.flatnonzero(labels.isna() | (names == ""))
    if len(missing):
        raise DataError(f"{path} row {start + missing[0] + 1} has no label")
    return names.to_numpy(dtype=str)


def _format_class_name(value: Any) -> str:
    """Format a label as text; a float without a fraction, such as 3.0, becomes 3."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


def _find_label_column(path: Path, column_names: Sequence[str]) -> int:
    lower_names = [name.lower() for name in column_names]
    label_index = next((lower_names.index(name) for name in LABEL_COLUMNS if name in lower_names), None)
    if label_index is not None:
        return label_index
    first = next((position for position, name in enumerate(column_names) if not _is_index(name)), 0)
    stems = [re.sub(r"\d.*", "", name) for name in column_names[first : first + 2]]
    if len(stems) == 2 and stems[0] == stems[1] and stems[0]:
        raise DataError(
            f"{path} has no column 'label': it starts with {column_names[first]!r},"
            f" {column_names[first + 1]!r}"
        )
    return first


def _is_index(name: str) -> bool:
    return not name or name.startswith(("__index_level_", "Unnamed: "))


def _infer_shape(path: Path, pixels: int) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if 0 < side <= MAX_SIDE and channels * side**2 == pixels:
            return channels, side, side
    raise DataError(
        f"{path} has {pixels} pixel columns beside its label, accepted: k × k for grey, such as "
        f"784 = 28 × 28, or 3 × k × k for colour, such as 3072 = 3 × 32 × 32, with k up to {MAX_SIDE}"
    )


def _parse_number(cell: Any) -> float:
    with suppress(ValueError, TypeError):
        return float(cell)
    return math.nan


def _image_bytes(value: Any) -> bytes:
    """Return the file content in a cell, which is bytes or {"bytes": …, "path": …}; b"" for an empty cell."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def _read_hub_class_names(metadata: dict[bytes, bytes] | None, label: str) -> dict[int, str]:
    """Read the class names of numeric labels from the schema, where the Hugging Face hub keeps them."""
    with suppress(KeyError, TypeError, ValueError):
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return dict(enumerate(map(str, names)))
    return {}
