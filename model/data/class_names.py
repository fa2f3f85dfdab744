"""Order and number of class names."""

import re
from collections.abc import Iterable

MAX_CLASSES = 1000


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Drop duplicates and sort: by value if all names are whole numbers, else by name."""
    unique = sorted(set(names))
    if all(re.fullmatch(r"-?\d+", name) for name in unique):
        unique.sort(key=int)
    return tuple(unique)
