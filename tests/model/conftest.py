"""A small custom dataset that several tests prepare."""

from pathlib import Path

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.home import Home

IMAGES = np.random.default_rng(0).integers(0, 256, (200, 12, 12), np.uint8)
LABELS = np.arange(200) % 4


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "data")


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """The config of a dataset of 200 random images of four classes."""
    np.savez(tmp_path / "shapes.npz", images=IMAGES, labels=LABELS)
    return TrainConfig(dataset=f"npz:{tmp_path / 'shapes.npz'}")
