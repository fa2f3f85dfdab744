"""Networks and image side that fit the data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relearn.flows.cli.app import run_command_line
from relearn.flows.training.fit_to_data import fit_to_data
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "data")


def write_folder(folder: Path, side: int, count: int = 3) -> Path:
    """Write a folder of JPEGs of two classes, each image a little larger than the one before."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 256, (side, side + index, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.jpg")
    return folder


@pytest.mark.parametrize(
    ("side", "settings", "networks", "expected_side", "expected_networks"),
    [
        (300, {}, (), 224, ("pretrained",)),
        (64, {}, (), 224, ("pretrained",)),
        (63, {}, (), None, ("mlp", "cnn")),
        (300, {"image_size": 96}, (), 96, ("pretrained",)),
        (300, {"image_size": 32}, (), 32, ("mlp", "cnn")),
        (300, {}, ("mlp",), None, ("mlp",)),
        (300, {}, ("mlp", "pretrained-lite1"), 240, ("mlp", "pretrained-lite1")),
        (40, {}, ("pretrained",), None, ("pretrained",)),
    ],
)
def test_photos_train_a_pretrained_network_at_its_side(
    tmp_path: Path,
    home: Home,
    side: int,
    settings: dict[str, int],
    networks: tuple[str, ...],
    expected_side: int | None,
    expected_networks: tuple[str, ...],
) -> None:
    """Given settings are kept; the others are chosen by the median side of the image files."""
    config = TrainConfig(dataset=str(write_folder(tmp_path / "photos", side)), **settings)
    fitted, chosen = fit_to_data(config, networks, home)
    assert (expected_side, expected_networks) == (fitted.image_size, chosen)
    assert config.model_dump(exclude={"image_size"}) == fitted.model_dump(exclude={"image_size"})


def test_side_in_a_description_is_kept(tmp_path: Path, home: Home) -> None:
    """A dataset.toml that names a side is not overruled."""
    write_folder(tmp_path / "photos", 300)
    (tmp_path / "dataset.toml").write_text('source = "photos"\nlayout = "folder"\nimage_size = 128\n')
    config = TrainConfig(dataset=str(tmp_path / "dataset.toml"))
    assert (config, ("pretrained",)) == fit_to_data(config, (), home)


def test_saved_reading_trains_as_the_photos_do(tmp_path: Path, home: Home) -> None:
    """`data inspect --save` writes the side that `run` chooses, and the fingerprint of such images."""
    folder, file = write_folder(tmp_path / "photos", 300), tmp_path / "dataset.toml"
    assert 0 == run_command_line(["data", "inspect", str(folder), "--save", str(file)])
    config = TrainConfig(dataset=str(file))
    assert (config, ("pretrained",)) == fit_to_data(config, (), home)
    assert (3, 224, 224) == load_dataset(config, home).shape


def test_exploration_shows_the_images_that_a_run_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data eda` resizes photos as `run` does."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    folder = write_folder(tmp_path / "photos", 300)
    assert 0 == run_command_line(["data", "eda", "--dataset", str(folder), "--images", "2"])
    assert "images of 3 × 224 × 224" in capsys.readouterr().out


def test_built_in_datasets_train_small_networks(home: Home) -> None:
    """Digits are 28 × 28, so nothing is inspected or resized."""
    config = TrainConfig(dataset="digits")
    assert (config, ("mlp", "cnn")) == fit_to_data(config, (), home)
