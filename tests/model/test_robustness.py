"""Promises of the varied data."""

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.evaluation.robustness import (
    CORRUPTIONS,
    MAX_IMAGES,
    correct_by_corruption,
    make_corrupted_copies,
    shift_rotate_scale,
)
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters


@pytest.fixture
def digits() -> LabelledImages:
    """A bright vertical bar in the middle of each of 20 dark images, 28 × 28."""
    images = np.zeros((20, 1, 28, 28), np.uint8)
    images[:, :, 6:22, 12:15] = 200
    return LabelledImages(images, np.arange(20) % 10)


def columns(images: np.ndarray) -> list[int]:
    """Where the ink of the first image stands."""
    return np.flatnonzero(images[0, 0].sum(axis=0) > 100).tolist()


@pytest.mark.parametrize("style", ["photo", "mnist"])
def test_every_change_keeps_shape_dtype_and_labels(digits: LabelledImages, style: str):
    """What a classifier reads, it can read changed, and no change is none."""
    changed = make_corrupted_copies(digits, style)
    assert set(CORRUPTIONS[style]) == set(changed)
    for name, split in changed.items():
        assert (digits.images.shape, np.uint8) == (split.images.shape, split.images.dtype), name
        assert np.array_equal(digits.labels, split.labels)
        assert not np.array_equal(digits.images, split.images), name


def test_the_same_images_are_changed_the_same(digits: LabelledImages):
    """Champion and candidate see the same noise, today and at the next release."""
    first, again = make_corrupted_copies(digits, "mnist"), make_corrupted_copies(digits, "mnist")
    assert all(np.array_equal(first[name].images, again[name].images) for name in first)


def test_changes_do_what_they_are_called(digits: LabelledImages):
    """Shifted is 2 pixels to the right and down; thicker has more ink, thinner less; smaller is shorter."""
    changed = {name: split.images for name, split in make_corrupted_copies(digits, "mnist").items()}
    assert [column + 2 for column in columns(digits.images)] == columns(changed["shifted"])
    assert np.array_equal(digits.images[:, :, :-2, :-2], changed["shifted"][:, :, 2:, 2:])
    ink = digits.images.sum(dtype=int)
    assert changed["thicker"].sum(dtype=int) > ink > changed["thinner"].sum(dtype=int)
    assert np.array_equal(255 - digits.images, changed["inverted"])
    rows = [np.flatnonzero(one[0, 0].sum(axis=1) > 100) for one in (changed["smaller"], digits.images)]
    assert pytest.approx(0.8, abs=0.1) == np.ptp(rows[0]) / np.ptp(rows[1])


def test_a_turn_to_the_left_is_one_to_the_left():
    """The upper end of an upright bar goes left, its lower end right; a quarter turn lays it down."""
    bar = np.zeros((1, 1, 28, 28), np.uint8)
    bar[:, :, 2:26, 13:15] = 255
    left = shift_rotate_scale(bar, rotation=15)[0, 0]
    assert left[3].argmax() < 13 < left[24].argmax()
    assert (
        np.abs(shift_rotate_scale(bar, rotation=90)[0, 0].astype(int) - np.rot90(bar[0, 0]).astype(int)).max()
        <= 1
    )


def test_many_images_are_thinned_out_evenly():
    """At most 2,000, from the first to the last, so that every class of sorted data is there."""
    images = np.zeros((5_000, 1, 8, 8), np.uint8)
    split = make_corrupted_copies(LabelledImages(images, np.arange(5_000)), "photo")["noisy"]
    assert (MAX_IMAGES, 0, 4_999) == (len(split), split.labels[0], split.labels[-1])


def test_right_is_told_image_by_image(digits: LabelledImages):
    """Whether each image of each slice is right, by the classifier's own answers."""
    config = TrainConfig(hidden_sizes=(16,))
    network = build_network(config, (1, 28, 28), 10)
    card = ModelCard(
        config=config,
        dataset="bars",
        classes=tuple("0123456789"),
        shape=(1, 28, 28),
        style="mnist",
        fingerprint="0" * 64,
        parameters=count_parameters(network),
    )
    classifier, slices = Classifier(network, card), make_corrupted_copies(digits, "mnist")
    told = correct_by_corruption(classifier, slices)

    assert slices.keys() == told.keys()
    for name, split in slices.items():
        assert np.array_equal(told[name], classifier.predict(split.images).argmax(1) == split.labels)
