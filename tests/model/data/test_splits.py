"""Promises of the splits: the same photos in each at any size, and as many as asked for of each class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.load import load_dataset
from relearn.model.data.splits import Splits, find_learned, hash_contents, split_dataset
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset

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
    """In classes of 150 images or more no image changes its split, in any order of the data."""
    before = split_hashes(split_dataset(make_dataset(images_between(0, 2000)), 0.15, 0.2))
    shuffled = np.random.default_rng(1).permutation(4000)
    after = split_hashes(
        split_dataset(make_dataset(LabelledImages(IMAGES[shuffled], LABELS[shuffled])), 0.15, 0.2)
    )
    for hashes_before, hashes_after in zip(before, after, strict=True):
        assert hashes_before <= hashes_after


@given(st.integers(0, 3_800), st.integers(3, 120), st.sampled_from([0.1, 0.15, 0.2, 0.5]))
@settings(max_examples=60, deadline=None)
def test_small_classes_have_the_fraction_to_within_one_image(start: int, count: int, fraction: float) -> None:
    """Classes of up to 125 images have as many test images as asked for, and one at least."""
    labels = np.arange(count) % 2
    splits = split_dataset(make_dataset(LabelledImages(IMAGES[start : start + count], labels)), fraction, 0.2)
    for label in (0, 1):
        images, tested = (int((part == label).sum()) for part in (labels, splits.test.labels))
        if images >= 3:
            assert abs(tested - fraction * images) <= 1
            assert tested >= 1


@given(st.integers(0, 3_000), st.integers(6, 400))
@settings(max_examples=60, deadline=None)
def test_a_new_image_moves_at_most_one_other(start: int, count: int) -> None:
    """An image that is added to a class moves one image of the class into the test split or out, or none."""
    labels = np.arange(count) % 2
    before, after = (
        split_hashes(
            split_dataset(make_dataset(LabelledImages(IMAGES[part], labels[: len(IMAGES[part])])), 0.15, 0.2)
        )
        for part in (slice(start, start + count - 1), slice(start, start + count))
    )
    new = hash_contents(IMAGES[start + count - 1 : start + count])[0]
    assert len((before[2] ^ after[2]) - {new}) <= 1


def test_splits_are_the_same_photos_at_any_size(tmp_path: Path) -> None:
    """Neither image size nor channels decide the split of a file, an array or a row."""
    photos, labels = np.random.default_rng(2).integers(0, 256, (40, 30, 20, 3), np.uint8), np.arange(40) % 2
    for index, (photo, label) in enumerate(zip(photos, labels, strict=True)):
        (tmp_path / "folder" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "folder" / str(label) / f"{index}.png")
    np.savez(tmp_path / "arrays.npz", images=photos, labels=labels)
    home = Home(tmp_path / "home", tmp_path)
    for source in (f"folder:{tmp_path / 'folder'}", f"npz:{tmp_path / 'arrays.npz'}"):
        prepared = [
            prepare_dataset(TrainConfig(dataset=source, image_size=side, channels=channels), home)
            for side, channels in ((8, 3), (24, 1), (64, None))
        ]
        for name in ("train", "validation", "test"):
            first, *others = (getattr(other.splits, name).sources.tolist() for other in prepared)
            assert first
            assert [first, first] == others


def test_splits_of_real_photos_are_even_and_the_same_at_any_size(tmp_path: Path, real_data: Path) -> None:
    """Test images are 19 of 124 ants and 18 of 121 bees, the same photos at 8 and at 48 pixels a side."""
    folder = real_data / "ants-bees" / "train"
    if not folder.is_dir():
        pytest.skip("RELEARN_DATA has no folder ants-bees")
    home = Home(tmp_path / "home", tmp_path)
    small, large = (
        prepare_dataset(TrainConfig(dataset=f"folder:{folder}", image_size=side), home) for side in (8, 48)
    )
    assert small.splits.test.sources.tolist() == large.splits.test.sources.tolist()
    assert small.counts == large.counts
    assert [19, 18] == small.counts["test"]


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


def test_images_that_were_learned_at_another_size_are_found(home: Home, config: TrainConfig) -> None:
    """Their source is known, though no pixel is the same."""
    small, large = (prepare_dataset(config.model_copy(update={"image_size": side}), home) for side in (8, 24))
    assert find_learned(large.splits.train, small.splits.train_val_hashes).all()
    assert not find_learned(large.splits.test, small.splits.train_val_hashes).any()
