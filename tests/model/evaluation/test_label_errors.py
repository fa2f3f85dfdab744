"""Promises of the list of suspected labels."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import Splits
from relearn.model.evaluation.label_errors import suspect_labels

CLASSES = tuple(f"class {label}" for label in range(10))


def load_splits(rate: float, seed: int) -> tuple[Splits, dict[str, np.ndarray]]:
    """Load scikit-learn's digits in three splits, with labels changed at random; return which ones."""
    pixels, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    is_wrong = rng.random(len(labels)) < rate
    shift = np.where(is_wrong, rng.integers(1, 10, len(labels)), 0)
    images = (pixels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    data = LabelledImages(images, ((labels + shift) % 10).astype(np.int64))
    rows = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
    parts = {name: LabelledImages(data.images[row], data.labels[row]) for name, row in rows.items()}
    return Splits(**parts), {name: is_wrong[row] for name, row in rows.items()}


@pytest.mark.parametrize(("rate", "seed"), [(0.02, 0), (0.1, 1)])
def test_wrong_labels_are_found_in_all_splits(rate: float, seed: int) -> None:
    """The list has 60 % of the labels changed by chance in each split; 90 % of its labels are wrong."""
    splits, is_wrong = load_splits(rate, seed)
    table = suspect_labels(splits, CLASSES)
    found = [is_wrong[str(split)][index] for split, index in zip(table["split"], table["index"], strict=True)]
    assert np.mean(found) >= 0.9
    for name, wrong in is_wrong.items():
        suspected = set(table["index"][table["split"] == name])
        assert len(suspected & set(np.flatnonzero(wrong))) >= 0.6 * wrong.sum(), name
    assert table["confidence"].is_monotonic_decreasing
    assert set(table["label"]) | set(table["predicted"]) <= set(CLASSES)


def test_correct_labels_are_rarely_suspected() -> None:
    """The list has fewer than 0.5 % of the digits as they are."""
    splits, _ = load_splits(0, 0)
    assert len(suspect_labels(splits, CLASSES)) < 0.005 * 1797


def test_hard_images_are_not_suspected() -> None:
    """Where a simple classifier fails, as with labels by chance, no label is called wrong."""
    splits, _ = load_splits(1, 0)
    assert suspect_labels(splits, CLASSES).empty


def test_small_classes_are_not_judged() -> None:
    """A class of few images is neither suspected nor proposed."""
    splits, _ = load_splits(0.1, 0)
    train = splits.train
    test = LabelledImages(splits.test.images[:5], np.full(5, 10))
    table = suspect_labels(Splits(train, splits.validation, test), (*CLASSES, "few"))
    assert "few" not in {*table["label"], *table["predicted"]}
    assert suspect_labels(Splits(*[replace(test, labels=test.labels * 0)] * 3), CLASSES).empty
