"""Tests of the corrupted copies."""

import numpy as np
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.evaluation.robustness import (
    CORRUPTIONS,
    MAX_IMAGES,
    make_corrupted_copies,
    per_image_correctness,
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


def foreground_columns(images: np.ndarray) -> list[int]:
    """Return the columns of the first image that have foreground pixels."""
    return np.flatnonzero(images[0, 0].sum(axis=0) > 100).tolist()


@pytest.mark.parametrize("style", ["photo", "mnist"])
def test_every_corruption_keeps_shape_dtype_and_labels(digits: LabelledImages, style: str):
    """Each copy is valid input for the same classifier, and differs from the original."""
    copies = make_corrupted_copies(digits, style)
    assert set(CORRUPTIONS[style]) == set(copies)
    for name, split in copies.items():
        assert (digits.images.shape, np.uint8) == (split.images.shape, split.images.dtype), name
        assert np.array_equal(digits.labels, split.labels)
        assert not np.array_equal(digits.images, split.images), name


def test_corruptions_are_deterministic(digits: LabelledImages):
    """Champion and candidate get the same noise, in every release."""
    first, second = make_corrupted_copies(digits, "mnist"), make_corrupted_copies(digits, "mnist")
    assert all(np.array_equal(first[name].images, second[name].images) for name in first)


def test_corruptions_do_what_their_names_say(digits: LabelledImages):
    """Shifted is 2 pixels right and down; thicker is brighter, thinner darker; smaller is shorter."""
    copies = {name: split.images for name, split in make_corrupted_copies(digits, "mnist").items()}
    assert [column + 2 for column in foreground_columns(digits.images)] == foreground_columns(
        copies["shifted"]
    )
    assert np.array_equal(digits.images[:, :, :-2, :-2], copies["shifted"][:, :, 2:, 2:])
    brightness = digits.images.sum(dtype=int)
    assert copies["thicker"].sum(dtype=int) > brightness > copies["thinner"].sum(dtype=int)
    assert np.array_equal(255 - digits.images, copies["inverted"])
    small, original = (
        np.flatnonzero(images[0, 0].sum(axis=1) > 100) for images in (copies["smaller"], digits.images)
    )
    assert pytest.approx(0.8, abs=0.1) == np.ptp(small) / np.ptp(original)


def test_positive_rotation_is_counterclockwise():
    """The upper end of a vertical bar moves left, its lower end right; 90 degrees make it horizontal."""
    bar = np.zeros((1, 1, 28, 28), np.uint8)
    bar[:, :, 2:26, 13:15] = 255
    left = shift_rotate_scale(bar, rotation=15)[0, 0]
    assert left[3].argmax() < 13 < left[24].argmax()
    assert (
        np.abs(shift_rotate_scale(bar, rotation=90)[0, 0].astype(int) - np.rot90(bar[0, 0]).astype(int)).max()
        <= 1
    )


def test_many_images_are_sampled_evenly():
    """At most 2,000 images are used, from the first to the last, so sorted data keeps every class."""
    images = np.zeros((5_000, 1, 8, 8), np.uint8)
    split = make_corrupted_copies(LabelledImages(images, np.arange(5_000)), "photo")["noisy"]
    assert (MAX_IMAGES, 0, 4_999) == (len(split), split.labels[0], split.labels[-1])


def test_correct_predictions_are_marked_per_image(digits: LabelledImages):
    """Each mask compares the predictions of the classifier with the labels."""
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
    classifier, copies = Classifier(network, card), make_corrupted_copies(digits, "mnist")
    correct = per_image_correctness(classifier, copies)

    assert copies.keys() == correct.keys()
    for name, split in copies.items():
        assert np.array_equal(correct[name], classifier.predict(split.images).argmax(1) == split.labels)
