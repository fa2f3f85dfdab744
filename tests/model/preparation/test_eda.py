"""Promises of the tables of an exploratory data analysis."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.home import Home
from relearn.model.preparation import eda
from relearn.model.preparation.prepared import prepare_dataset

RNG = np.random.default_rng(0)
CLASSES = ("ant", "bee", "cat")


def make_split(count: int, *labels: int) -> LabelledImages:
    images = RNG.integers(0, 256, (count, 1, 8, 8), np.uint8)
    return LabelledImages(images, np.resize(np.array(labels), count).astype(np.int64))


SPLITS = Splits(make_split(60, 0, 0, 0, 1, 1, 2), make_split(20, 0, 1), make_split(20, 0, 2))


def test_images_of_each_split_are_counted() -> None:
    """Each split has its number of images and its fraction of all."""
    table = eda.split_sizes(SPLITS)
    assert [("train", 60, 0.6), ("validation", 20, 0.2), ("test", 20, 0.2)] == list(
        table.itertuples(index=False, name=None)
    )


def test_labels_of_each_split_are_counted() -> None:
    """One row per class, in the order of the classes."""
    table = eda.label_counts(SPLITS, CLASSES)
    assert ["class", "train", "validation", "test", "images", "fraction"] == list(table.columns)
    assert ["bee", 20, 10, 0, 30, 0.3] == table.iloc[1].tolist()


@pytest.mark.parametrize(
    ("counts", "summary"),
    [
        ((50, 50), "balanced: each has 50 images"),
        ((50, 49), "balanced: 'a' has 1.02 times the images of 'b' (50 and 49)"),
        ((20, 50), "uneven: 'b' has 2.5 times the images of 'a' (50 and 20)"),
        ((9000, 1), "imbalanced: 'a' has 9e+03 times the images of 'b' (9,000 and 1)"),
        ((7, 0), "imbalanced: 1 of 2 classes have no image"),
    ],
)
def test_class_balance_is_summarized(counts: tuple[int, int], summary: str) -> None:
    """One line has the category and the largest and smallest class."""
    assert summary == eda.balance_summary(pd.DataFrame({"class": ["a", "b"], "images": counts}))


def test_pixel_statistics_equal_those_of_numpy() -> None:
    """Minimum, maximum, mean, standard deviation and fraction of zeros are exact."""
    table = eda.pixel_statistics(SPLITS).set_index("split")
    pixels = SPLITS.train.images
    assert (pixels.min(), pixels.max()) == tuple(table.loc["train", ["minimum", "maximum"]])
    assert pytest.approx(pixels.mean()) == table.loc["train", "mean"]
    assert pytest.approx(pixels.std()) == table.loc["train", "std"]
    assert pytest.approx((pixels == 0).mean()) == table.loc["train", "zero_fraction"]


def test_histogram_counts_every_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting in chunks gives the same numbers."""
    monkeypatch.setattr(eda, "CHUNK_SIZE", 1000)
    expected = np.bincount(SPLITS.train.images.ravel(), minlength=256)
    assert np.array_equal(expected, eda.histogram(SPLITS.train.images))


def test_preprocessing_ranges_show_before_and_after() -> None:
    """Bytes from 0 to 255 become floats from 0 to 1, flat for the mlp; labels become one-hot."""
    table = eda.preprocessing_ranges(SPLITS.train, 3).set_index("what")
    assert ["uint8", "n × 1 × 8 × 8"] == table.loc["images as stored", ["type", "shape"]].tolist()
    assert ["float32", "n × 64"] == table.loc["images for the mlp", ["type", "shape"]].tolist()
    assert ["float32", "n × 1 × 8 × 8"] == table.loc["images for the cnn", ["type", "shape"]].tolist()
    assert 1 >= table.loc["images for the cnn", "maximum"] > 0.9
    assert ["n × 3", 0, 1] == table.loc["labels as one-hot", ["shape", "minimum", "maximum"]].tolist()


def test_one_hot_examples_show_each_class() -> None:
    """The first image of each class has a single 1 in the column of its class, for any class name."""
    table = eda.one_hot_examples(SPLITS.train.labels, CLASSES)
    assert [[0, 0, "ant", 1, 0, 0], [3, 1, "bee", 0, 1, 0], [5, 2, "cat", 0, 0, 1]] == table.values.tolist()
    ambiguous = eda.one_hot_examples(np.array([1, 0]), ("label", "class"))
    assert ["image", "label", "class", "label", "class"] == list(ambiguous.columns)
    assert 2 == len(eda.one_hot_examples(SPLITS.train.labels, CLASSES, max_rows=2))


def test_every_table_of_a_dataset(tmp_path: Path) -> None:
    """Color, other proportions and any class names work in all tables."""
    images = RNG.integers(0, 256, (200, 3, 10, 8), np.uint8)
    labels = np.array(["label", "$x", "日本", "class"])[np.arange(200) % 4]
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    config = TrainConfig(dataset=f"npz:{tmp_path / 'a.npz'}")
    tables = eda.eda_tables(prepare_dataset(config, Home(tmp_path, tmp_path)))
    assert {"splits", "labels", "pixels", "preprocessing", "one_hot", "findings"} == set(tables)
    for table in tables.values():
        assert table.to_csv(index=False)
