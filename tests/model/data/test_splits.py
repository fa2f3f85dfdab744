"""Promises of the splits: an image's content alone decides its split."""

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


def make_dataset(train: LabelledImages, test: LabelledImages | None = None) -> Dataset:
    return Dataset("some", "some", tuple("0123456789"), "photo", train, test)


def images_between(start: int, stop: int) -> LabelledImages:
    return LabelledImages(IMAGES[start:stop], LABELS[start:stop])


def split_hashes(splits: Splits) -> list[set[int]]:
    """The content hashes of train, validation and test."""
    return [
        set(hash_contents(split.images).tolist()) for split in (splits.train, splits.validation, splits.test)
    ]


def test_every_image_is_in_one_split() -> None:
    """No image is lost or in two splits, and labels go with their images."""
    splits = split_dataset(make_dataset(images_between(0, 4000)), 0.15, 0.2)
    train, validation, test = split_hashes(splits)
    assert 4000 == len(train) + len(validation) + len(test) == len(train | validation | test)
    label_of = dict(zip(hash_contents(IMAGES).tolist(), LABELS.tolist(), strict=True))
    for split in (splits.train, splits.validation, splits.test):
        hashes = hash_contents(split.images).tolist()
        assert [label_of[content_hash] for content_hash in hashes] == split.labels.tolist()


def test_fractions_are_met() -> None:
    """Sizes are within four standard deviations of the requested fractions."""
    splits = split_dataset(make_dataset(images_between(0, 4000)), 0.15, 0.2)
    assert abs(len(splits.test) - 600) < 4 * np.sqrt(4000 * 0.15 * 0.85)
    remaining = 4000 - len(splits.test)
    assert abs(len(splits.validation) - 0.2 * remaining) < 4 * np.sqrt(remaining * 0.2 * 0.8)


def test_image_keeps_its_split_when_the_data_grows() -> None:
    """A training image never becomes a test image, in any order of the data."""
    before = split_hashes(split_dataset(make_dataset(images_between(0, 1000)), 0.15, 0.2))
    shuffled = np.random.default_rng(1).permutation(4000)
    after = split_hashes(
        split_dataset(make_dataset(LabelledImages(IMAGES[shuffled], LABELS[shuffled])), 0.15, 0.2)
    )
    for hashes_before, hashes_after in zip(before, after, strict=True):
        assert hashes_before <= hashes_after


def test_equal_images_share_a_split() -> None:
    """A duplicate never leaks into another split."""
    duplicated = LabelledImages(np.concatenate([IMAGES[:500]] * 2), np.concatenate([LABELS[:500]] * 2))
    splits = split_dataset(make_dataset(duplicated), 0.3, 0.3)
    train, validation, test = split_hashes(splits)
    assert len(train) + len(validation) + len(test) == len(train | validation | test) == 500
    assert 2 * len(test) == len(splits.test)


def test_existing_test_split_is_kept() -> None:
    """The test split of the dataset is the test split, in its order."""
    splits = split_dataset(make_dataset(images_between(0, 900), images_between(900, 1000)), 0.5, 0.2)
    assert np.array_equal(IMAGES[900:1000], splits.test.images)
    assert 900 == len(splits.train) + len(splits.validation)


def test_test_and_validation_are_selected_independently() -> None:
    """Their salts differ: the validation fraction of the rest does not depend on the test fraction."""
    splits = split_dataset(make_dataset(images_between(0, 4000)), 0.5, 0.5)
    expected = 0.5 * (len(splits.train) + len(splits.validation))
    assert abs(len(splits.validation) - expected) < 4 * np.sqrt(expected / 2)


def test_splits_of_digits_are_pinned(tmp_path: Path) -> None:
    """Other numbers here would move images of every user between splits."""
    digits = load_dataset(TrainConfig(dataset="digits"), Home(tmp_path, tmp_path))
    splits = split_dataset(digits, 0.15, 0.2)
    assert (1176, 329, 292) == (len(splits.train), len(splits.validation), len(splits.test))


def test_hash_depends_on_content_and_salt_alone() -> None:
    """Equal images have equal hashes; a changed pixel changes the hash, a salt changes all."""
    changed = IMAGES[:2].copy()
    changed[1, 0, 3, 3] ^= 1
    assert hash_contents(IMAGES[:1]) == hash_contents(changed[:1])
    assert hash_contents(IMAGES[1:2]) != hash_contents(changed[1:])
    assert not (hash_contents(IMAGES, b"salt") == hash_contents(IMAGES)).any()
    assert (
        hash_contents(IMAGES.transpose(0, 1, 3, 2)) == hash_contents(replace(images_between(0, 4000)).images)
    ).sum() < 5
