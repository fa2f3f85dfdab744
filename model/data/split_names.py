"""Names by which people call training, validation and test data."""

import re
from collections.abc import Iterable

from relearn.model.data.description import SplitName

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


def match_splits(names: Iterable[str]) -> dict[SplitName, tuple[str, ...]]:
    """Return the names of each split; {} without a training split.

    With train and validation alone, the validation images are the test split, as published figures have it.
    """
    matches: dict[SplitName, tuple[str, ...]] = {}
    for name in names:
        if split := find_split(name):
            matches[split] = (*matches.get(split, ()), name)
    if "train" not in matches:
        return {}
    if "test" not in matches and "validation" in matches:
        matches["test"] = matches.pop("validation")
    return {split: matches[split] for split in ("train", "validation", "test") if split in matches}
