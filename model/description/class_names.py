"""Names of classes: their order, names that are nearly equal, names that join several classes."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

LABEL_SEPARATORS = (r"\s*[|;,]\s*", r"\s*[+&/]\s*", r"[\s_]+", "-")


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Drop duplicates and sort: by value if all names are whole numbers, else by name."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"-?\d+", name) for name in unique):
        unique.sort(key=int)
    return tuple(unique)


def find_similar_names(names: Sequence[str]) -> list[list[str]]:
    """Group names that differ only in case, Unicode form, spaces, or as 1 and 1.0 do."""
    groups = defaultdict[str, list[str]](list)
    for name in names:
        normal = unicodedata.normalize("NFKC", name)
        key = re.sub(r"[\s_-]+", " ", normal).strip().casefold()
        with suppress(ValueError):
            key = str(float(normal))
        groups[key].append(name)
    return [group for group in groups.values() if len(group) > 1]


def find_joint_names(names: Sequence[str]) -> list[str]:
    """Find names that join several labels: dog|cat if dog and cat are classes, or if most names are such.

    In the second case fewer than half as many labels as names make more than half of the names.
    """
    for separator in LABEL_SEPARATORS:
        labels = {name: list(filter(None, re.split(separator, name))) for name in names}
        joint = [name for name, words in labels.items() if len(words) > 1 and set(words) <= set(names)]
        if joint:
            return joint
        joint = [name for name, words in labels.items() if len(words) > 1]
        vocabulary = {word for words in labels.values() for word in words}
        if len(joint) > len(names) / 2 > len(vocabulary):
            return joint
    return []
