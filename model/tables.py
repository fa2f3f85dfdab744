"""Tables of images: a row of pixels for each, in CSV or Parquet; or pictures in a Parquet column."""

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
from relearn.model.pictures import stack

Table = tuple[np.ndarray, np.ndarray, list[str]]
"""Images, uint8 (n, channels, height, width); the name of the class of each; notes."""

ROWS = 4096  # read at a time: 26 MB of int64 at 785 columns
LARGEST_SIDE = 256  # pixels
LONGEST_LINE = 2**22  # bytes; 3 × 256 × 256 pixels take 0.8 MB
LABELS, PICTURES = ("label", "class", "target"), ("image", "img")


def read_csv(path: Path) -> Table:
    """A table of pixels as text, separated by comma, semicolon or tab, with a header or without."""
    separator, first = _first_line(path)
    has_header = any(math.isnan(_number(cell)) for cell in first[1:])
    names = first if has_header else [f"{position}" for position in range(1, len(first) + 1)]
    try:
        with pd.read_csv(
            path,
            sep=separator,
            header=None,
            skiprows=int(has_header),
            dtype={_label_column(path, names): str},
            keep_default_na=False,  # a class may be called "none"
            encoding="utf-8-sig",
            low_memory=False,
            chunksize=ROWS,
        ) as chunks:
            return _read(path, names, chunks)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} has a header and no rows") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no table of pixels: {error}") from None


def read_parquet(path: Path, size: int | None = None) -> Table:
    """A table of pixels, or columns `image` (PNG or JPEG) and `label`, as the hubs of datasets have them."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            picture = next((name for name in names if name in PICTURES), None)
            if picture is None:
                frames = (batch.to_pandas(ignore_metadata=True) for batch in file.iter_batches(ROWS))
                return _read(path, names, frames)
            names.remove(picture)
            if not names:
                raise DataError(f"{path} has no column of labels beside {picture!r}")
            label = names[_label_column(path, names)]
            table = file.read([picture, label])
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Parquet file: {error}") from None
    pictures = [(f"row {row}", _content(value)) for row, value in enumerate(table[picture].to_pylist(), 1)]
    images, notes = stack(pictures, size)
    known = _known_classes(table.schema.metadata, label)
    labels = pd.Series(table[label].to_pylist(), dtype=object)
    if known:
        labels = labels.map(lambda value: known.get(value, value))
    return images, _class_names(path, labels, 0), notes


def whole(values: np.ndarray, place: Callable[[tuple[int, ...]], str]) -> np.ndarray:
    """Numbers as uint8; DataError where the first one stands that is not a whole number from 0 to 255."""
    bad = ~((values >= 0) & (values <= 255) & (values == np.floor(values)))
    if bad.any():
        index = tuple(np.argwhere(bad)[0].tolist())
        scaled = 0 < values[index] < 1 and np.nanmax(values) <= 1
        hint = "; values scaled to 0–1 must be multiplied by 255 and rounded" if scaled else ""
        raise DataError(f"{place(index)}, accepted: whole numbers from 0 to 255{hint}")
    return values.astype(np.uint8)


def _first_line(path: Path) -> tuple[str, list[str]]:
    with path.open("rb") as file:
        line = file.readline(LONGEST_LINE)
    if not line.strip():
        raise DataError(f"{path} has an empty first line, accepted: names of columns, or a label and pixels")
    if len(line) == LONGEST_LINE:
        raise DataError(f"{path} has a first line of more than {LONGEST_LINE:,} bytes: too many columns")
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from None
    separator = max(",;\t", key=text.count)
    return separator, [cell.strip() for cell in next(csv.reader([text], delimiter=separator), [])]


def _read(path: Path, names: Sequence[str], chunks: Iterable[pd.DataFrame]) -> Table:
    """One image a row: the column called label (or class, or target) or else the first, the rest pixels.

    Pixels come row by row, colour as a plane of red, one of green, one of blue. Columns that pandas
    wrote for its index (no name, or `__index_level_0__`) are left out.
    """
    label = _label_column(path, names)
    pixels = [position for position, name in enumerate(names) if position != label and not _is_index(name)]
    shape = _shape(path, len(pixels))
    images, labels, start = [], [], 0
    for chunk in chunks:
        if len(chunk.columns) != len(names):
            raise DataError(f"{path} has {len(names)} columns in its first line, {len(chunk.columns)} below")
        images.append(_pixels(path, chunk.iloc[:, pixels], [names[position] for position in pixels], start))
        labels.append(_class_names(path, chunk.iloc[:, label], start))
        start += len(chunk)
    if not start:
        raise DataError(f"{path} has no rows")
    return np.concatenate(images).reshape(-1, *shape), np.concatenate(labels), []


def _pixels(path: Path, frame: pd.DataFrame, names: Sequence[str], start: int) -> np.ndarray:
    values = frame.to_numpy()
    if values.dtype == object:
        values = np.frompyfunc(_number, 1, 1)(values).astype(float)

    def place(index: tuple[int, ...]) -> str:
        row, column = index
        got = str(frame.iat[row, column])[:40]
        return f"{path} row {start + row + 1}, column {names[column]!r}: got {got!r}"

    return whole(values, place)


def _class_names(path: Path, labels: pd.Series, start: int) -> np.ndarray:
    if labels.dtype == object and not labels.map(pd.api.types.is_hashable).all():
        got = str(labels[~labels.map(pd.api.types.is_hashable)].iloc[0])[:40]
        raise DataError(f"{path}: got the label {got!r}, accepted: a name or a number")
    names = labels.map({value: _class_name(value) for value in labels.unique()})
    missing = np.flatnonzero(labels.isna() | (names == ""))
    if len(missing):
        raise DataError(f"{path} row {start + missing[0] + 1} has no label")
    return names.to_numpy(dtype=str)


def _class_name(value: Any) -> str:
    """A label as it is written; 3 where a tool made 3.0 of it."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip())


def _label_column(path: Path, names: Sequence[str]) -> int:
    lower = [name.lower() for name in names]
    named = next((lower.index(name) for name in LABELS if name in lower), None)
    if named is not None:
        return named
    first = next((position for position, name in enumerate(names) if not _is_index(name)), 0)
    stems = [re.sub(r"\d.*", "", name) for name in names[first : first + 2]]
    if len(stems) == 2 and stems[0] == stems[1] and stems[0]:
        raise DataError(
            f"{path} has no column 'label': it starts with {names[first]!r}, {names[first + 1]!r}"
        )
    return first


def _is_index(name: str) -> bool:
    return not name or name.startswith(("__index_level_", "Unnamed: "))


def _shape(path: Path, pixels: int) -> tuple[int, int, int]:
    for channels in (1, 3):
        side = math.isqrt(pixels // channels)
        if 0 < side <= LARGEST_SIDE and channels * side**2 == pixels:
            return channels, side, side
    raise DataError(
        f"{path} has {pixels} pixel columns beside its labels, accepted: k × k for grey, such as "
        f"784 = 28 × 28, or 3 × k × k for colour, such as 3072 = 3 × 32 × 32, with k up to {LARGEST_SIDE}"
    )


def _number(cell: Any) -> float:
    with suppress(ValueError, TypeError):
        return float(cell)
    return math.nan


def _content(value: Any) -> bytes:
    """The bytes of a picture, bare or as {"bytes": …, "path": …}; none where there are none."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def _known_classes(metadata: dict[bytes, bytes] | None, label: str) -> dict[int, str]:
    """The names behind numeric labels, which the Hugging Face hub keeps in the schema."""
    with suppress(KeyError, TypeError, ValueError):
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        return dict(enumerate(map(str, names)))
    return {}
