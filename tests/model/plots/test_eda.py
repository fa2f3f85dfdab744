"""Promises of the figures of an exploratory data analysis."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.errors import UserInputError
from relearn.model.home import Home
from relearn.model.plots.eda import plot_eda, plot_image_grid, plot_label_distribution, plot_pixel_values
from relearn.model.preparation.eda import label_counts
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset

RNG = np.random.default_rng(0)
CLASSES = ("ant", "bee", "cat")


def make_split(count: int, *labels: int) -> LabelledImages:
    images = RNG.integers(0, 256, (count, 1, 8, 8), np.uint8)
    return LabelledImages(images, np.resize(np.array(labels), count).astype(np.int64))


SPLITS = Splits(make_split(60, 0, 0, 0, 1, 1, 2), make_split(20, 0, 1), make_split(20, 0, 2))


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    """A color dataset of 10 × 8 pixels with class names that matplotlib and pandas could misread."""
    images = RNG.integers(0, 256, (200, 3, 10, 8), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=np.array(["label", "$x", "日本", "class"])[np.arange(200) % 4],
    )
    return prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'a.npz'}"), Home(tmp_path, tmp_path))


def render(figure: Figure) -> np.ndarray:
    """Render a figure to uint8 (height, width, 3)."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return np.asarray(Image.open(content).convert("RGB"))


def test_every_figure_of_a_dataset(prepared: PreparedDataset) -> None:
    """Color, other proportions and any class names work in all figures."""
    figures = plot_eda(prepared, image_count=12, seed=3)
    assert {"images", "labels", "pixels"} == set(figures)
    for figure in figures.values():
        assert 900 == render(figure).shape[1]


def test_image_grid_depends_on_the_seed() -> None:
    """The same seed gives the same figure, another seed another one."""
    first, repeated, other_seed = (
        render(plot_image_grid(SPLITS.train, CLASSES, 9, seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, repeated)
    assert first.shape != other_seed.shape or not np.array_equal(first, other_seed)


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_image_grid_shows_any_number_of_images(count: int) -> None:
    """Each image is shown once, in its own place, with its class above it."""
    bright = LabelledImages(np.full((60, 1, 8, 8), 100, np.uint8), SPLITS.train.labels)
    figure = plot_image_grid(bright, CLASSES, count, seed=0)
    page = figure.axes[0].images[0].get_array()
    assert count * 64 == (page[..., 0] == 100).sum()
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert count == len(captions)
    assert set(captions) <= set(CLASSES)


def test_captions_match_their_images() -> None:
    """The caption above an image is its class."""
    labels = np.arange(30) % 3
    shades = LabelledImages(
        np.full((30, 1, 4, 4), 1, np.uint8) * labels[:, None, None, None].astype(np.uint8), labels
    )
    axes = plot_image_grid(shades, CLASSES, 20, seed=5).axes[0]
    page = axes.images[0].get_array()
    for text in axes.texts:
        left, bottom = text.get_position()
        assert CLASSES[page[int(bottom) + 2, int(left) + 1, 0]] == text.get_text()


@pytest.mark.parametrize("count", [0, -1])
def test_image_grid_of_no_images_is_rejected(count: int) -> None:
    """The message says what is accepted."""
    with pytest.raises(UserInputError, match=f"images: got {count}, accepted: 1 or more"):
        plot_image_grid(SPLITS.train, CLASSES, count, seed=0)


def test_image_grid_is_limited_to_existing_images() -> None:
    """All images are shown, and the title says so."""
    assert "20 of 20 training images" in plot_image_grid(SPLITS.test, CLASSES, 99, 0).get_suptitle()


def test_largest_and_smallest_of_many_classes_are_shown() -> None:
    """Of 60 classes 40 are shown, and the title has the number of hidden ones."""
    names = tuple(f"class {index}" for index in range(60))
    many = make_split(4000, *np.minimum(RNG.exponential(12, 4000).astype(int), 59))
    figure = plot_label_distribution(label_counts(Splits(many, many, many), names))
    assert "20 classes between the largest and the smallest are not shown" in figure.get_suptitle()
    assert 40 == len(figure.axes[0].get_yticks())


def test_histogram_title_has_the_ranges_before_and_after_preprocessing() -> None:
    """The title has both ranges, also without dark pixels."""
    counts = np.zeros(256, np.int64)
    counts[[51, 204]] = 10
    title = plot_pixel_values(counts).get_suptitle()
    assert "Pixel values 51 to 204, mean 127.5; 0.0% are 0" in title
    assert "0.2 to 0.8, mean 0.500" in title
