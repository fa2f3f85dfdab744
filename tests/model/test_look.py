"""Promises of looking at the data: tables say what is there, figures show it."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data import eda
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.data.splits import Splits
from relearn.model.errors import UserInputError
from relearn.model.home import Home
from relearn.model.plots import eda as look_plots

RANDOM = np.random.default_rng(0)
CLASSES = ("ant", "bee", "cat")


def part(count: int, *labels: int) -> LabelledImages:
    images = RANDOM.integers(0, 256, (count, 1, 8, 8), np.uint8)
    return LabelledImages(images, np.resize(np.array(labels), count).astype(np.int64))


SPLITS = Splits(part(60, 0, 0, 0, 1, 1, 2), part(20, 0, 1), part(20, 0, 2))


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    images = RANDOM.integers(0, 256, (200, 3, 10, 8), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        images=images,
        labels=np.array(["label", "$x", "日本", "class"])[np.arange(200) % 4],
    )
    return prepare_dataset(TrainConfig(dataset=f"npz:{tmp_path / 'a.npz'}"), Home(tmp_path, tmp_path))


def drawn(figure: Figure) -> np.ndarray:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return np.asarray(Image.open(content).convert("RGB"))


def test_sizes_and_shares() -> None:
    """Each split with its images and its share of all."""
    table = eda.sizes(SPLITS)
    assert [("train", 60, 0.6), ("validation", 20, 0.2), ("test", 20, 0.2)] == list(
        table.itertuples(index=False, name=None)
    )


def test_labels_are_counted_in_each_split() -> None:
    """One row a class, in the order of the classes."""
    table = eda.labels(SPLITS, CLASSES)
    assert ["class", "train", "validation", "test", "images", "share"] == list(table.columns)
    assert ["bee", 20, 10, 0, 30, 0.3] == table.iloc[1].tolist()


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((50, 50), "balanced: each has 50 images"),
        ((50, 49), "balanced: 'a' has 1.02 times the images of 'b' (50 and 49)"),
        ((20, 50), "uneven: 'b' has 2.5 times the images of 'a' (50 and 20)"),
        ((9000, 1), "imbalanced: 'a' has 9e+03 times the images of 'b' (9,000 and 1)"),
        ((7, 0), "imbalanced: 1 of 2 classes have no image"),
    ],
)
def test_the_verdict_on_balance(counts: tuple[int, int], verdict: str) -> None:
    """One line: what to call it, and the two ends."""
    assert verdict == eda.verdict(pd.DataFrame({"class": ["a", "b"], "images": counts}))


def test_the_range_of_the_pixels_is_exact() -> None:
    """Minimum, maximum, mean, deviation and share of zeros, equal to NumPy's."""
    table = eda.pixels(SPLITS).set_index("split")
    pixels = SPLITS.train.images
    assert (pixels.min(), pixels.max()) == tuple(table.loc["train", ["minimum", "maximum"]])
    assert pytest.approx(pixels.mean()) == table.loc["train", "mean"]
    assert pytest.approx(pixels.std()) == table.loc["train", "deviation"]
    assert pytest.approx((pixels == 0).mean()) == table.loc["train", "dark"]


def test_a_histogram_counts_every_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces as in one."""
    monkeypatch.setattr(eda, "CHUNK_SIZE", 1000)
    expected = np.bincount(SPLITS.train.images.ravel(), minlength=256)
    assert np.array_equal(expected, eda.histogram(SPLITS.train.images))


def test_before_and_after_preprocessing() -> None:
    """Bytes from 0 to 255 become floats from 0 to 1, flat for the mlp; labels become one-hot."""
    table = eda.preprocessing(SPLITS.train, 3).set_index("what")
    assert ["uint8", "n × 1 × 8 × 8"] == table.loc["images as stored", ["type", "shape"]].tolist()
    assert ["float32", "n × 64"] == table.loc["images for the mlp", ["type", "shape"]].tolist()
    assert ["float32", "n × 1 × 8 × 8"] == table.loc["images for the cnn", ["type", "shape"]].tolist()
    assert 1 >= table.loc["images for the cnn", "maximum"] > 0.9
    assert ["n × 3", 0, 1] == table.loc["labels as one-hot", ["shape", "minimum", "maximum"]].tolist()


def test_one_hot_rows_show_each_class() -> None:
    """The first image of each class, with a single 1 under its own name, whatever that name is."""
    table = eda.one_hot_rows(SPLITS.train.labels, CLASSES)
    assert [[0, 0, "ant", 1, 0, 0], [3, 1, "bee", 0, 1, 0], [5, 2, "cat", 0, 0, 1]] == table.values.tolist()
    clash = eda.one_hot_rows(np.array([1, 0]), ("label", "class"))
    assert ["image", "label", "class", "label", "class"] == list(clash.columns)
    assert 2 == len(eda.one_hot_rows(SPLITS.train.labels, CLASSES, rows=2))


def test_every_table_and_figure_of_a_dataset(prepared: PreparedDataset) -> None:
    """Colour, odd proportions and class names of any kind go through all of them."""
    tables = eda.tables(prepared)
    assert {"splits", "labels", "pixels", "preprocessing", "one_hot", "findings"} == set(tables)
    for table in tables.values():
        assert table.to_csv(index=False)
    figures = look_plots.plot_eda(prepared, image_count=12, seed=3)
    assert {"images", "labels", "pixels"} == set(figures)
    for figure in figures.values():
        assert 900 == drawn(figure).shape[1]


def test_a_grid_shows_the_images_that_the_seed_draws() -> None:
    """The same seed, the same picture; another seed, another one."""
    one, again, other = (
        drawn(look_plots.plot_image_grid(SPLITS.train, CLASSES, 9, seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert one.shape != other.shape or not np.array_equal(one, other)


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_a_grid_of_any_number(count: int) -> None:
    """Each image stands once, in its own place, with its class above it."""
    bright = LabelledImages(np.full((60, 1, 8, 8), 100, np.uint8), SPLITS.train.labels)
    figure = look_plots.plot_image_grid(bright, CLASSES, count, seed=0)
    page = figure.axes[0].images[0].get_array()
    assert count * 64 == (page[..., 0] == 100).sum()
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert count == len(captions)
    assert set(captions) <= set(CLASSES)


def test_captions_go_with_their_images() -> None:
    """An image and the name above it are of the same class."""
    labels = np.arange(30) % 3
    shades = LabelledImages(
        np.full((30, 1, 4, 4), 1, np.uint8) * labels[:, None, None, None].astype(np.uint8), labels
    )
    axes = look_plots.plot_image_grid(shades, CLASSES, 20, seed=5).axes[0]
    page = axes.images[0].get_array()
    for text in axes.texts:
        left, bottom = text.get_position()
        assert CLASSES[page[int(bottom) + 2, int(left) + 1, 0]] == text.get_text()


@pytest.mark.parametrize("count", [0, -1])
def test_a_grid_of_no_images(count: int) -> None:
    """What is accepted is told."""
    with pytest.raises(UserInputError, match=f"images: got {count}, accepted: 1 or more"):
        look_plots.plot_image_grid(SPLITS.train, CLASSES, count, seed=0)


def test_a_grid_of_more_images_than_there_are() -> None:
    """All of them are shown, and the title says so."""
    assert (
        "20 of 20 training images" in look_plots.plot_image_grid(SPLITS.test, CLASSES, 99, 0).get_suptitle()
    )


def test_of_many_classes_both_ends_are_shown() -> None:
    """Sixty classes: the largest and the smallest, and how many are left out."""
    names = tuple(f"class {index}" for index in range(60))
    many = part(4000, *np.minimum(RANDOM.exponential(12, 4000).astype(int), 59))
    figure = look_plots.plot_label_distribution(eda.labels(Splits(many, many, many), names))
    assert "20 classes between the largest and the smallest are not shown" in figure.get_suptitle()
    assert 40 == len(figure.axes[0].get_yticks())


def test_the_histogram_says_what_preprocessing_makes_of_it() -> None:
    """Both ranges stand in the title, for bright images as well."""
    counts = np.zeros(256, np.int64)
    counts[[51, 204]] = 10
    title = look_plots.plot_pixel_values(counts).get_suptitle()
    assert "Pixel values 51 to 204, mean 127.5; 0.0% are 0" in title
    assert "0.2 to 0.8, mean 0.500" in title
