"""Custom datasets: a small one that several tests prepare, and a function that loads any."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset
from relearn.model.data.load import load_dataset
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


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Dataset]:
    """A function that loads `format:PATH` with settings."""

    def load_custom(file_format: str, path: Path, **settings: Any) -> Dataset:
        return load_dataset(
            TrainConfig(dataset=f"{file_format}:{path}", **settings), Home(tmp_path, tmp_path / "data")
        )

    return load_custom
