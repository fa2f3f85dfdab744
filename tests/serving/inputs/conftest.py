"""Fixtures of the input tests: one image, and image files."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def image() -> np.ndarray:
    """Return a random image, uint8 (1, 28, 28)."""
    return np.random.default_rng(1).integers(0, 256, (1, 28, 28), dtype=np.uint8)


@pytest.fixture
def image_files(image: np.ndarray, encoded: Callable[..., bytes]) -> list[bytes]:
    """Return three different PNG files."""
    return [encoded(image), encoded(255 - image), encoded(image // 2)]
