"""What every peer is given."""

from collections.abc import Callable
from typing import Any

import numpy as np

Settings = dict[str, Any]
Part = tuple[np.ndarray, np.ndarray]
EpochDone = Callable[[float], None]
