"""Golden fingerprints: a source that was read rightly once is read to the same pixels and labels forever.

A fingerprint here changes only together with a reason written next to it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Small sources of each format, always the same."""
    rng = np.random.default_rng(7)
    gray, color = rng.integers(0, 256, (24, 12, 12), np.uint8), rng.integers(0, 256, (24, 3, 8, 8), np.uint8)
    labels, channels_last = np.arange(24) % 3, color.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "g.npz", images=gray, labels=labels, test_images=gray[:5], test_labels=labels[:5])
    np.savez(
        tmp_path / "k.npz",
        x_train=channels_last,
        y_train=labels[:, None],
        x_test=channels_last[:4],
        y_test=labels[:4],
    )
    table = pd.DataFrame(gray.reshape(24, -1), columns=[f"pixel{index}" for index in range(144)])
    table.insert(0, "label", labels)
    table.to_csv(tmp_path / "g.csv", index=False)
    return {name: f"{name.partition('.')[2]}:{tmp_path / name}" for name in ("g.npz", "k.npz", "g.csv")}


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("g.npz", "20c48905f6ca62d2a7ca77df7c05cdc04fee2724223a3b96263d3c66024e05bb"),
        ("k.npz", "9fe2741bbc8f2bb72e4bd6294824a881cfdb805c5fa18e231e5d1164625dfe0d"),
        ("g.csv", "137cf288678aa35ea69e7c3905b5c0e02062861e9d153b0dc92f5452566f6578"),
    ],
)
def test_custom_formats(sources: dict[str, str], tmp_path: Path, name: str, fingerprint: str) -> None:
    """Our arrays, Keras's arrays and a pixel table with column names."""
    assert (
        fingerprint
        == load_dataset(TrainConfig(dataset=sources[name]), Home(tmp_path, tmp_path / "data")).fingerprint
    )


def test_digits(tmp_path: Path) -> None:
    """The digits of scikit-learn."""
    dataset = load_dataset(TrainConfig(dataset="digits"), Home(tmp_path, tmp_path / "data"))
    assert "cc89e34b57dfcadbbc7f6e7a9002bf9814d65db77759f621a03e9749f199cf2b" == dataset.fingerprint


def test_mnist(tmp_path: Path, real_data: Path) -> None:
    """MNIST's published files."""
    dataset = load_dataset(TrainConfig(dataset="mnist"), Home(tmp_path, real_data))
    assert "20bf6dd219452c1fdd96260767ae69d45621ba99294f39db6f6bfe95d4696bb6" == dataset.fingerprint


def test_folder_of_photos(tmp_path: Path, real_data: Path) -> None:
    """Ants and bees, 245 training photos at 32 pixels a side.

    Their JPEGs, of about 500 pixels a side, are decoded at half their size since format 7 of prepared
    data: pixels differ by 0.5 of 255 on average. The folder `val`, left out before, is the test split.
    """
    folder = real_data / "ants-bees"
    if not folder.is_dir():
        pytest.skip("RELEARN_DATA has no folder ants-bees")
    config = TrainConfig(dataset=f"folder:{folder}", image_size=32)
    dataset = load_dataset(config, Home(tmp_path, tmp_path / "data"))
    train = replace(dataset, test=None)
    assert "9a7c1289fb6fbbb464d5fd6993e91f24587f348363d2c0f1076fa6799746d2e9" == train.fingerprint
    assert "8cd29645104ab89ca5c3867d3b5e2a43696a1894a15905e7624e4798f9cbc97a" == dataset.fingerprint
