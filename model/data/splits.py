"""Hash-based train, validation and test splits."""

import hashlib
from dataclasses import dataclass

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.images.allocate import Allocate, allocate_in_memory, copy_rows

TEST_SALT, VALIDATION_SALT = b"relearn test", b"relearn validation"


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset; splits made by `split_by_hash` share no image content."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages

    @property
    def train_val_hashes(self) -> np.ndarray:
        """Content hashes, uint64 (n,), of the training and validation images."""
        return np.concatenate([hash_contents(self.train.images), hash_contents(self.validation.images)])


def split_dataset(
    dataset: Dataset,
    test_fraction: float,
    validation_fraction: float,
    allocate: Allocate = allocate_in_memory,
) -> Splits:
    """Split `dataset` by a hash of each image's content.

    An image keeps its split when the data grows, equal images share a split, and the order of the data
    does not matter. A dataset's own test and validation splits are not changed. Fractions are met to about
    √(fraction · (1 − fraction) / n), and a class of three different images has one in each split.
    """
    remaining, test, validation = dataset.train, dataset.test, dataset.validation
    if test is None:
        min_remaining = 2 if validation is None else 1
        remaining, test = _split_each_class(remaining, test_fraction, TEST_SALT, min_remaining, allocate)
    if validation is None:
        remaining, validation = _split_each_class(
            remaining, validation_fraction, VALIDATION_SALT, 1, allocate
        )
    return Splits(remaining, validation, test)


def _split_each_class(
    images: LabelledImages, fraction: float, salt: bytes, min_remaining: int, allocate: Allocate
) -> tuple[LabelledImages, LabelledImages]:
    """Split as `split_by_hash` does, with an image of each class in both parts where there are enough.

    The remaining part keeps `min_remaining` different images of a class.
    """
    positions = hash_to_fraction(images.images, salt)
    is_selected = positions < fraction
    for label in np.unique(images.labels):
        in_class = images.labels == label
        contents = np.unique(positions[in_class])
        if len(contents) > min_remaining:
            selected = np.clip(np.searchsorted(contents, fraction), 1, len(contents) - min_remaining)
            is_selected[in_class] = positions[in_class] <= contents[selected - 1]
    is_selected = np.isin(positions, positions[is_selected])  # an image may be in several classes
    return take(images, ~is_selected, allocate), take(images, is_selected, allocate)


def split_by_hash(
    images: LabelledImages, fraction: float, salt: bytes
) -> tuple[LabelledImages, LabelledImages]:
    """Return two parts: the rest, and about `fraction` of the images, chosen by content and `salt`."""
    is_selected = hash_to_fraction(images.images, salt) < fraction
    return take(images, ~is_selected), take(images, is_selected)


def take(
    images: LabelledImages, selection: np.ndarray, allocate: Allocate = allocate_in_memory
) -> LabelledImages:
    """Copy images and their labels that a bool mask or indices select."""
    places = None if images.places is None else images.places[selection]
    return LabelledImages(copy_rows(images.images, selection, allocate), images.labels[selection], places)


def hash_to_fraction(images: np.ndarray, salt: bytes) -> np.ndarray:
    """Map each image to a number in 0–1 that depends on its content and `salt` alone, float64 (n,)."""
    return hash_contents(images, salt) / 2.0**64


def hash_contents(images: np.ndarray, salt: bytes = b"") -> np.ndarray:
    """Hash each image's content, uint64 (n,); unequal images have equal hashes almost never."""
    digests = b"".join(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, key=salt).digest()
        for image in images
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
