"""Names by which people call training, validation and test data."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from relearn.model.errors import DataError
from relearn.model.sources.description import SplitName
from relearn.model.sources.tables import TableFile

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
SPLIT_WORDS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "validate": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# Words around the name of a split: train_set, test-data, images_train.
_FILLERS = r"(?:set|data|dataset|images?|imgs?|split|folder|dir)"


def find_split(name: str) -> SplitName | None:
    """Return the split that a folder, table, array or value is named after, or None."""
    letters = re.sub(r"[^a-z]", "", name.lower())
    word = re.sub(rf"^{_FILLERS}|{_FILLERS}+$", "", letters) if letters not in SPLIT_WORDS else letters
    return SPLIT_WORDS.get(word)


def find_table_split(name: str) -> SplitName | None:
    """Return the split that a table's file name says in one of its words, else one of its folders."""
    path = PurePosixPath(name)
    words = {split for word in re.split(r"[\W_]+", path.name.split(".")[0]) if (split := find_split(word))}
    if words:
        return words.pop() if len(words) == 1 else None
    return next((split for folder in reversed(path.parts[:-1]) if (split := find_split(folder))), None)


def match_splits(
    names: Iterable[str], find: Callable[[str], SplitName | None] = find_split
) -> dict[SplitName, tuple[str, ...]]:
    """Return the names of each split; {} without a training split.

    With train and validation alone, the validation images are the test split, as published figures have it.
    """
    matches: dict[SplitName, tuple[str, ...]] = {}
    for name in names:
        if split := find(name):
            matches[split] = (*matches.get(split, ()), name)
    if "train" not in matches:
        return {}
    if "test" not in matches and "validation" in matches:
        matches["test"] = matches.pop("validation")
    return {split: matches[split] for split in SPLITS if split in matches}


def find_row_splits(
    tables: Sequence[TableFile], split_column: str | None
) -> dict[SplitName, tuple[str, ...]]:
    """Match the values of the split column, or else the tables, to splits; {} if there are none."""
    if split_column is None:
        return _match_tables([table.name for table in tables])
    chunks = (chunk for table in tables for chunk in table.read([split_column], [split_column]))
    values = {value for chunk in chunks for value in chunk[split_column].astype(str).unique()}
    splits = match_splits(sorted(values))
    if not splits:
        raise DataError(f"{tables[0].name}: no value of {split_column!r} is the training split")
    return splits


def _match_tables(names: Sequence[str]) -> dict[SplitName, tuple[str, ...]]:
    """Match several tables to splits; {} if all are parts of one, and raise if that is in doubt."""
    if len(names) == 1:
        return {}
    splits = match_splits(names, find_table_split)
    if not splits and len({re.sub(r"\d+", "#", name) for name in names}) > 1:
        raise DataError(
            f"the tables {', '.join(names[:5])} are neither parts of one nor named after splits, accepted: "
            "train.csv and test.csv, or train-00000-of-00002.parquet; one of them; or `splits = …` in "
            "dataset.toml"
        )
    return splits if len(splits) > 1 else {}
