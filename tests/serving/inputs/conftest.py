"""Fixtures of the input tests: one image, and image files."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def image() -> np.ndarray:
    """Return a random image, uint8 (1, 28, 28)."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, 5:24, 5:24] = np.random.default_rng(1).integers(0, 256, (19, 19))
    return image


@pytest.fixture
def image_files(image: np.ndarray, encoded: Callable[..., bytes]) -> list[bytes]:
    """Return three different PNG files."""
    return [encoded(image), encoded(image.transpose(0, 2, 1)), encoded(image // 2)]
