"""Table files: CSV, JSON lines and Parquet, opened as columns with names and read in chunks of rows."""

import csv
import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import pandas as pd

from relearn.model.errors import DataError

CHUNK_ROWS = 4096  # read at a time: 26 MB of int64 at 785 columns
SAMPLE_ROWS = 1000  # from which the roles of columns are inferred
MAX_LINE_BYTES = 2**22  # 3 × 256 × 256 pixels take 0.8 MB
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".jsonl", ".parquet")
GZIP_MAGIC, PARQUET_MAGIC = b"\x1f\x8b", b"PAR1"

OpenFile = Callable[[], BinaryIO]


@dataclass(frozen=True)
class TableFile:
    """A table: its columns, its first rows, and `read(text_columns, columns)` for chunks of all rows.

    Text columns are read as text. `class_names` has the names of numeric labels of a column, if the file
    knows them.
    """

    name: str
    columns: tuple[str, ...]
    sample: pd.DataFrame
    read: Callable[[Sequence[str], Sequence[str]], Iterator[pd.DataFrame]]
    separator: str = ","
    header: bool = True
    class_names: Mapping[str, Mapping[int, str]] | None = None


def open_table(name: str, open_file: OpenFile, options: dict[str, Any], kind: str = "") -> TableFile:
    """Open a table by its content; `kind` (csv or parquet) demands one."""
    with open_file() as file:
        head = file.read(4)
    if kind == "parquet" or (not kind and head == PARQUET_MAGIC):
        return _open_parquet(name, open_file)
    if head.startswith(GZIP_MAGIC):
        return _open_csv(name, lambda: _open_gzip(open_file()), options)
    if name.lower().endswith(".jsonl"):
        return _open_json_lines(name, open_file)
    return _open_csv(name, open_file, options)


def format_labels(name: str, labels: pd.Series, start: int = 0) -> np.ndarray:
    """Format labels as text; `start` counts the rows before these."""
    if labels.dtype == object and not labels.map(pd.api.types.is_hashable).all():
        value = labels[~labels.map(pd.api.types.is_hashable)].iloc[0]
        got = str(value.tolist() if isinstance(value, np.ndarray) else value)[:40]
        raise DataError(f"{name}: got the label {got!r}, accepted: a name or a number")
    names = labels.map({value: str(value) for value in labels.unique()})
    missing = np.flatnonzero(labels.isna() | (names.str.strip() == ""))
    if len(missing):
        raise DataError(f"{name} row {start + missing[0] + 1} has no label")
    return names.to_numpy(dtype=str)


def parse_number(cell: Any) -> float:
    """Parse a number; NaN for anything else."""
    with suppress(ValueError, TypeError):
        return float(cell)
    return math.nan


def tidy_labels(labels: np.ndarray) -> np.ndarray:
    """Strip spaces, and turn a tool's 3.0 into 3, where this merges no two different labels."""
    names, inverse = np.unique(labels, return_inverse=True)
    tidy = [re.sub(r"^(-?\d+)\.0+$", r"\1", name.strip()) for name in names.tolist()]
    counts = Counter(tidy)
    tidy_names = [new if counts[new] == 1 else old for old, new in zip(names.tolist(), tidy, strict=True)]
    return np.array(tidy_names, dtype=str)[inverse]


def _open_csv(name: str, open_file: OpenFile, options: dict[str, Any]) -> TableFile:
    comment_lines, separator, first_row = _read_first_line(name, open_file, options.get("separator"))
    header = options.get("header", _is_header(first_row))
    columns = first_row if header else [f"{position}" for position in range(1, len(first_row) + 1)]
    repeats = pd.DataFrame({"name": columns}).groupby("name").cumcount() + 1
    numbered = zip(columns, repeats, strict=True)
    columns = [name if count == 1 else f"{name} ({count})" for name, count in numbered]

    def read(
        text_columns: Sequence[str], wanted: Sequence[str] = columns, rows: int | None = None
    ) -> Iterator[pd.DataFrame]:
        text_positions = [columns.index(column) for column in text_columns]
        try:
            with (
                open_file() as file,
                pd.read_csv(
                    file,
                    sep=separator,
                    header=None,
                    skiprows=comment_lines + int(header),
                    skipinitialspace=separator == " ",
                    dtype=dict.fromkeys(text_positions, str),
                    keep_default_na=False,  # a class may be called "none"
                    encoding="utf-8-sig",
                    low_memory=False,
                    nrows=rows,
                    chunksize=CHUNK_ROWS,
                ) as chunks,
            ):
                for chunk in chunks:
                    if len(chunk.columns) != len(columns):
                        raise DataError(
                            f"{name} has {len(columns)} columns in its first line, {len(chunk.columns)} below"
                        )
                    chunk.columns = pd.Index(columns)
                    yield chunk[list(wanted)]
        except pd.errors.EmptyDataError:
            raise DataError(f"{name} has a header and no rows") from None
        except (pd.errors.ParserError, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name} is not a table of pixels: {error}") from None

    sample = next(iter(list(read(columns, columns, SAMPLE_ROWS))), pd.DataFrame(columns=columns))
    return TableFile(name, tuple(columns), sample, read, separator, header)


def _open_gzip(packed: BinaryIO) -> BinaryIO:
    file = gzip.GzipFile(fileobj=packed, mode="rb")
    file.myfileobj = packed  # type: ignore[assignment]  # closed with it
    return cast(BinaryIO, file)


def _read_first_line(
    name: str, open_file: OpenFile, chosen_separator: str | None
) -> tuple[int, str, list[str]]:
    """Return the number of comment lines at the start, the separator, and the cells of the first line."""
    comment_lines = 0
    try:
        with open_file() as file:
            line = file.readline(MAX_LINE_BYTES)
            while line.startswith((b"#", b"\xef\xbb\xbf#")):
                comment_lines += 1
                line = file.readline(MAX_LINE_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name} is not a complete gzip file: {error}") from None
    if not line.strip():
        raise DataError(f"{name} has an empty first line, accepted: column names, or a label and pixels")
    if len(line) == MAX_LINE_BYTES:
        raise DataError(f"{name} has a first line of more than {MAX_LINE_BYTES:,} bytes: too many columns")
    try:
        text = line.decode("utf-8-sig").strip(" \r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error}") from None
    separator = chosen_separator or max(",;\t|", key=text.count)
    if separator not in text and " " in text:
        separator = " "
    cells = [cell.strip() for cell in next(csv.reader([text], delimiter=separator), [])]
    return comment_lines, separator, cells


def _is_header(cells: Sequence[str]) -> bool:
    """Return True for names: mostly words, `label` among numbers, or numbers that count the columns."""
    numbers = sorted(number for number in map(parse_number, cells) if not math.isnan(number))
    if len(numbers) <= len(cells) // 2 or {"label", "class", "target"} & {cell.lower() for cell in cells}:
        return len(cells) > 1
    return len(numbers) > 3 and any(numbers == list(range(first, first + len(numbers))) for first in (0, 1))


def _open_json_lines(name: str, open_file: OpenFile) -> TableFile:
    try:
        with open_file() as file:
            rows = [json.loads(line) for line in file if line.strip()]
        frame = pd.DataFrame.from_records(rows).astype(object)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is no file of JSON lines: {error}") from None

    def read(text_columns: Sequence[str], wanted: Sequence[str] = ()) -> Iterator[pd.DataFrame]:
        yield frame[list(wanted or frame.columns)]

    return TableFile(name, tuple(map(str, frame.columns)), frame.head(SAMPLE_ROWS), read)


def _open_parquet(name: str, open_file: OpenFile) -> TableFile:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    @contextmanager
    def opened() -> Iterator[Any]:
        try:
            with open_file() as file, pq.ParquetFile(file) as table:
                yield table
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{name} is not a Parquet file: {error}") from None

    def read(
        text_columns: Sequence[str], wanted: Sequence[str] = (), rows: int = CHUNK_ROWS
    ) -> Iterator[pd.DataFrame]:
        with opened() as table:
            for batch in table.iter_batches(rows, columns=list(wanted) or None):
                yield batch.to_pandas(ignore_metadata=True)

    with opened() as table:
        schema = table.schema_arrow
    sample = next(read((), (), SAMPLE_ROWS), pd.DataFrame(columns=schema.names))
    return TableFile(name, tuple(schema.names), sample, read, class_names=_read_hub_names(schema.metadata))


def _read_hub_names(metadata: dict[bytes, bytes] | None) -> dict[str, dict[int, str]]:
    """Read the class names of numeric labels from the schema, where the Hugging Face hub keeps them."""
    names = dict[str, dict[int, str]]()
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        for column, feature in features.items():
            with suppress(KeyError, TypeError):
                names[column] = dict(enumerate(map(str, feature["names"])))
    return names
