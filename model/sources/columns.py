"""Roles of the columns of a table: label, split and group, and the rows that are read by them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from relearn.model.description.name_words import find_split, find_word_split, match_splits
from relearn.model.description.source_description import AmbiguousDataError, DataDescription, SplitName
from relearn.model.errors import DataError
from relearn.model.sources.tables import TableFile, format_labels, parse_number

# The first of these in a table is its label.
LABEL_NAMES = (
    *("label", "class", "target", "labels", "classes", "targets", "class_name", "classname", "label_name"),
    *("category", "y", "ground_truth", "gt", "class_id", "classid", "label_id", "category_id"),
)
SPLIT_NAMES = ("split", "usage", "set", "subset", "partition", "dataset", "phase")
GROUP_NAMES = ("group", "patient", "patient_id", "subject", "subject_id", "writer", "user", "session")
ID_NAMES = ("id", "index", "idx", "image_id", "imageid", "uid", "uuid", "row", "row_id", "rowid", "number")
SIZE_NAMES = ("width", "height", "channels", "image_width", "image_height")


def find_roles(tables: Sequence[TableFile], others: Sequence[str], choices: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a description for `others`, the columns that hold no image and no pixels."""
    table = tables[0]
    split_column = _find_split_column(table, others, choices)
    others = [name for name in others if name != split_column]
    group = choices.get("groups_column", find_column(others, GROUP_NAMES))
    if group is not None and group not in table.columns:
        raise DataError(
            f"groups_column: got {group!r}, accepted: a column of {table.name}: "
            f"{', '.join(map(repr, table.columns[:20]))}"
        )
    return {
        "separator": table.separator,
        "header": table.header,
        "label_columns": find_label_columns(table, [name for name in others if name != group], choices),
        "split_column": split_column,
        "groups_column": group,
        "splits": choices["splits"] if "splits" in choices else _find_row_splits(tables, split_column),
    }


def find_label_columns(table: TableFile, others: Sequence[str], choices: dict[str, Any]) -> tuple[str, ...]:
    """Return the label column among `others`, the columns without another role, or several one-hot ones."""
    if choices.get("label_columns"):
        return tuple(choices["label_columns"])
    label = find_column(others, LABEL_NAMES)
    if label is not None:
        _check_only_label(table, label, others)
        return (label,)
    candidates = [
        name
        for name in others
        if find_column([name], (*ID_NAMES, *SIZE_NAMES)) is None
        and not name.lower().endswith("_id")
        and _repeats(table.sample[name])
    ]
    if len(candidates) == 1:
        return (candidates[0],)
    if candidates and len(table.sample):
        values = table.sample[candidates].map(parse_number).to_numpy(float)
        if is_one_hot(values).all():
            return tuple(candidates)
    if not candidates and len(table.columns) == 1:
        raise DataError(f"{table.name} has no label column beside {table.columns[0]!r}")
    if not candidates:
        start = ", ".join(map(repr, table.columns[:2]))
        raise DataError(f"{table.name} has no column 'label': it starts with {start}")
    raise AmbiguousDataError(
        f"{table.name} has no column 'label', but {', '.join(map(repr, candidates[:6]))}",
        {f"the label is {name!r}": {"label_columns": [name]} for name in candidates[:2]},
    )


def find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first column that is called like one of `names`, in the order of these."""
    by_name = {column.lower().replace(" ", "_").replace("-", "_"): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def is_index(name: str) -> bool:
    """Return True for a column that pandas wrote for its index."""
    return re.fullmatch(r"(__index_level_.*|Unnamed: .*)?( \(\d+\))?", name) is not None


def is_one_hot(values: np.ndarray) -> np.ndarray:
    """Return True, bool (rows,), for each row of a single 1 and zeros."""
    matches: np.ndarray = np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1)
    return matches


class Rows(NamedTuple):
    """Some rows of a table, of which the first is row `start` from 0: labels, str (rows,), splits and groups.

    The split is None where the description gives none, the group "" where the table has none.
    """

    table: TableFile
    start: int
    cells: pd.DataFrame
    labels: np.ndarray
    splits: list[SplitName | None]
    groups: list[str]

    @property
    def kept(self) -> np.ndarray:
        """Positions of the rows that have a split, int (kept,)."""
        return np.flatnonzero([split is not None for split in self.splits])


def read_rows(
    tables: Sequence[TableFile],
    description: DataDescription,
    columns: Sequence[str],
    text_columns: Sequence[str] = (),
) -> Iterator[Rows]:
    """Read `columns` of all rows with their labels and splits; `text_columns` are read as text."""
    split_of = {value: split for split, values in description.splits.items() for value in values}
    split_column, groups_column = description.split_column, description.groups_column
    named = [name for name in (split_column, groups_column) if name]
    text_columns = [*description.label_columns, *named, *text_columns]
    for table in tables:
        start = 0
        for cells in table.read(text_columns, list(dict.fromkeys([*text_columns, *columns]))):
            if not len(cells):
                continue
            values = cells[split_column].astype(str) if split_column else [table.name] * len(cells)
            splits = [split_of.get(value) if split_of else "train" for value in values]
            groups = (
                cells[groups_column].fillna("").astype(str).tolist() if groups_column else [""] * len(cells)
            )
            yield Rows(table, start, cells, _read_labels(table, cells, description, start), splits, groups)
            start += len(cells)


def _read_labels(
    table: TableFile, cells: pd.DataFrame, description: DataDescription, start: int
) -> np.ndarray:
    """Read the labels as they are written."""
    columns = list(description.label_columns)
    if len(columns) == 1:
        labels = cells[columns[0]]
        if names := (table.class_names or {}).get(columns[0]):
            labels = labels.astype(object).map(lambda value: names.get(value, value))
        return format_labels(table.name, labels, start)
    values = cells[columns].map(parse_number).to_numpy(float)
    invalid = np.flatnonzero(~is_one_hot(values))
    if len(invalid):
        raise DataError(f"{table.name} row {start + invalid[0] + 1} has no single 1 among its label columns")
    chosen: np.ndarray = np.array(columns)[values.argmax(axis=1)]
    return chosen


def _check_only_label(table: TableFile, label: str, others: Sequence[str]) -> None:
    """Raise for a second column that is called like a label and divides the images in another way."""
    for name in others:
        if name == label or find_column([name], LABEL_NAMES) is None:
            continue
        pairs = table.sample[[label, name]].astype(str).drop_duplicates()
        if not len(pairs) == pairs[label].nunique() == pairs[name].nunique():
            raise AmbiguousDataError(
                f"{table.name} has two label columns",
                {f"the label is {column!r}": {"label_columns": [column]} for column in (label, name)},
            )


def _repeats(values: pd.Series) -> bool:
    """Return True for values that repeat, as classes do; captions, dates and paths do not."""
    return bool(values.astype(str).nunique() <= max(2, len(values) // 2))


def _find_split_column(table: TableFile, others: Sequence[str], choices: dict[str, Any]) -> str | None:
    """Return the column whose values are all names of splits."""
    if "split_column" in choices:
        return cast(str | None, choices["split_column"])
    flags = [name for name in others if _match_flag(name, table.sample[name])]
    name = find_column(others, SPLIT_NAMES) or (flags[0] if len(flags) == 1 else None)
    if name is None or name in flags:
        return name
    values = sorted(set(table.sample[name].astype(str)))
    if all(map(find_split, values)):
        return name
    if len(values) < 2 or not {"Training", "PublicTest", "PrivateTest"} >= set(values):
        return None
    if "splits" in choices:
        return name
    separate = {"train": ["Training"], "validation": ["PublicTest"], "test": ["PrivateTest"]}
    both = {"train": ["Training"], "test": ["PublicTest", "PrivateTest"]}
    raise AmbiguousDataError(
        f"{table.name} has the column {name!r} with {', '.join(values)}",
        {
            "PublicTest is the validation split": {"splits": separate},
            "both are the test split": {"splits": both},
        },
    )


def _match_flag(name: str, values: Iterable[str]) -> dict[SplitName, tuple[str, ...]]:
    """Return the values of each split of a column such as is_valid, which is true or false; else {}."""
    split = find_split(name[3:]) if name.lower().startswith("is_") else None
    flags = {str(value).lower(): str(value) for value in values} if split else {}
    if set(flags) not in ({"true", "false"}, {"0", "1"}):
        return {}
    no, yes = (flags[value] for value in sorted(flags))
    train, test = (yes, no) if split == "train" else (no, yes)
    return {"train": (train,), "test": (test,)}


def _find_row_splits(
    tables: Sequence[TableFile], split_column: str | None
) -> dict[SplitName, tuple[str, ...]]:
    """Match the values of the split column, or else several tables, to splits; {} if there are none.

    Tables whose names differ only in numbers are parts of one.
    """
    names = [table.name for table in tables]
    if split_column is not None:
        chunks = (chunk for table in tables for chunk in table.read([split_column], [split_column]))
        values = {value for chunk in chunks for value in chunk[split_column].astype(str).unique()}
        if not (splits := _match_flag(split_column, values) or match_splits(sorted(values))):
            raise DataError(f"{names[0]}: no value of {split_column!r} is the training split")
        return splits
    splits = match_splits(names, find_word_split)
    if not splits and len({re.sub(r"\d+", "#", name) for name in names}) > 1:
        raise DataError(
            f"the tables {', '.join(names[:5])} are neither parts of one nor named after splits, accepted: "
            "train.csv and test.csv, or train-00000-of-00002.parquet; one of them; or `splits = …` in "
            "dataset.toml"
        )
    return splits if len(splits) > 1 else {}
