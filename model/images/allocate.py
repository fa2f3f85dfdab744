"""Arrays for many images, in memory or in a file."""

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROWS_AT_A_TIME = 256  # 50 MB at 3 × 256 × 256
Allocate = Callable[[tuple[int, ...]], np.ndarray]
"""Makes an array of this shape, uint8."""


def allocate_in_memory(shape: tuple[int, ...]) -> np.ndarray:
    """Make an array in memory."""
    return np.empty(shape, np.uint8)


def allocate_in(folder: Path) -> Allocate:
    """Return a function that makes arrays in files in `folder`, of which memory holds what fits.

    The files have no names: the system removes each with its array, also after a kill.
    """

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        if not math.prod(shape):
            return allocate_in_memory(shape)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            return np.memmap(file, np.uint8, "w+", shape=shape)

    return allocate


def copy_rows(images: np.ndarray, rows: np.ndarray, allocate: Allocate) -> np.ndarray:
    """Copy rows, bool (n,) or indices, to a new array, some at a time."""
    indices = np.flatnonzero(rows) if rows.dtype == bool else rows
    result = allocate((len(indices), *images.shape[1:]))
    for start in range(0, len(indices), ROWS_AT_A_TIME):
        result[start : start + ROWS_AT_A_TIME] = images[indices[start : start + ROWS_AT_A_TIME]]
    return result
