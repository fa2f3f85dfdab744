"""Promises of the splits: decided by an image's content alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.load import load_dataset
from relearn.model.data.splits import Splits, hash_contents, split_dataset
from relearn.model.home import Home

IMAGES = np.random.default_rng(0).integers(0, 256, (4000, 1, 6, 6), np.uint8)
LABELS = np.arange(4000) % 10


def dataset(part: LabelledImages, test: LabelledImages | None = None) -> Dataset:
    return Dataset("some", "some", tuple("0123456789"), "plain", part, test)


def part(start: int, stop: int) -> LabelledImages:
    return LabelledImages(IMAGES[start:stop], LABELS[start:stop])


def sets(splits: Splits) -> list[set[int]]:
    return [set(hash_contents(one.images).tolist()) for one in (splits.train, splits.validation, splits.test)]


def test_every_image_is_in_one_split() -> None:
    """None is lost, none stands twice, and labels go with their images."""
    splits = split_dataset(dataset(part(0, 4000)), 0.15, 0.2)
    train, validation, test = sets(splits)
    assert 4000 == len(train) + len(validation) + len(test) == len(train | validation | test)
    label_of = dict(zip(hash_contents(IMAGES).tolist(), LABELS.tolist(), strict=True))
    for one in (splits.train, splits.validation, splits.test):
        assert [label_of[content] for content in hash_contents(one.images).tolist()] == one.labels.tolist()


def test_shares_are_met() -> None:
    """Within four standard deviations of what was asked for."""
    splits = split_dataset(dataset(part(0, 4000)), 0.15, 0.2)
    assert abs(len(splits.test) - 600) < 4 * np.sqrt(4000 * 0.15 * 0.85)
    rest = 4000 - len(splits.test)
    assert abs(len(splits.validation) - 0.2 * rest) < 4 * np.sqrt(rest * 0.2 * 0.8)


def test_an_image_keeps_its_split_when_the_data_grows() -> None:
    """What was trained on never becomes a test image, in whatever order the data comes."""
    before = sets(split_dataset(dataset(part(0, 1000)), 0.15, 0.2))
    shuffled = np.random.default_rng(1).permutation(4000)
    after = sets(split_dataset(dataset(LabelledImages(IMAGES[shuffled], LABELS[shuffled])), 0.15, 0.2))
    for small, large in zip(before, after, strict=True):
        assert small <= large


def test_equal_images_land_together() -> None:
    """A duplicate never leaks from one split into another."""
    twice = LabelledImages(np.concatenate([IMAGES[:500]] * 2), np.concatenate([LABELS[:500]] * 2))
    splits = split_dataset(dataset(twice), 0.3, 0.3)
    train, validation, test = sets(splits)
    assert len(train) + len(validation) + len(test) == len(train | validation | test) == 500
    assert 2 * len(test) == len(splits.test)


def test_a_test_part_stays_whole() -> None:
    """What the dataset brings as its test is the test, in its order."""
    splits = split_dataset(dataset(part(0, 900), part(900, 1000)), 0.5, 0.2)
    assert np.array_equal(IMAGES[900:1000], splits.test.images)
    assert 900 == len(splits.train) + len(splits.validation)


def test_test_and_validation_are_drawn_independently() -> None:
    """Another salt: the validation share of the rest does not depend on the test share."""
    one = split_dataset(dataset(part(0, 4000)), 0.5, 0.5)
    expected = 0.5 * (len(one.train) + len(one.validation))
    assert abs(len(one.validation) - expected) < 4 * np.sqrt(expected / 2)


def test_the_splits_of_digits_are_these(tmp_path: Path) -> None:
    """Pinned: another number here moves images of every user between their splits."""
    digits = load_dataset(TrainConfig(dataset="digits"), Home(tmp_path, tmp_path))
    splits = split_dataset(digits, 0.15, 0.2)
    assert (1176, 329, 292) == (len(splits.train), len(splits.validation), len(splits.test))


def test_content_is_all_that_counts() -> None:
    """Equal images, equal numbers; one other pixel, another number; a salt changes all."""
    changed = IMAGES[:2].copy()
    changed[1, 0, 3, 3] ^= 1
    assert hash_contents(IMAGES[:1]) == hash_contents(changed[:1])
    assert hash_contents(IMAGES[1:2]) != hash_contents(changed[1:])
    assert not (hash_contents(IMAGES, b"other") == hash_contents(IMAGES)).any()
    assert (
        hash_contents(IMAGES.transpose(0, 1, 3, 2)) == hash_contents(replace(part(0, 4000)).images)
    ).sum() < 5
