"""Argument types of the `train` functions."""

from collections.abc import Callable
from typing import Any

import numpy as np

Settings = dict[str, Any]
Split = tuple[np.ndarray, np.ndarray]
EpochEndCallback = Callable[[float], None]
