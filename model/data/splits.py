"""Who learns, who decides when to stop, who judges: train, validation, test."""

import hashlib
from dataclasses import dataclass

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages

TEST_SALT, VALIDATION_SALT = b"relearn test", b"relearn validation"


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset; no image content stands in more than one that we cut ourselves."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages

    @property
    def train_val_hashes(self) -> np.ndarray:
        """What a training looks at, by content, uint64: images to learn from, and to choose an epoch by."""
        return np.concatenate([hash_contents(self.train.images), hash_contents(self.validation.images)])


def split_dataset(dataset: Dataset, test_fraction: float, validation_fraction: float) -> Splits:
    """Cut `dataset` by a hash of each image's content.

    An image keeps its split when the data grows, equal images land together, and the order of the data
    does not matter. A test part that the dataset brings stays whole. Shares are met to about
    √(share · (1 − share) / n).
    """
    remaining, test = dataset.train, dataset.test
    if test is None:
        remaining, test = split_by_hash(remaining, test_fraction, TEST_SALT)
    train, validation = split_by_hash(remaining, validation_fraction, VALIDATION_SALT)
    return Splits(train, validation, test)


def split_by_hash(
    images: LabelledImages, fraction: float, salt: bytes
) -> tuple[LabelledImages, LabelledImages]:
    """What stays, and about `share` of the images, drawn by their contents and `salt` alone."""
    is_selected = hash_to_fraction(images.images, salt) < fraction
    return take(images, ~is_selected), take(images, is_selected)


def take(images: LabelledImages, selection: np.ndarray) -> LabelledImages:
    """Those that `chosen` names, by a bool or an index for each."""
    return LabelledImages(images.images[selection], images.labels[selection])


def hash_to_fraction(images: np.ndarray, salt: bytes) -> np.ndarray:
    """A number in 0–1 for each image, drawn by its content and `salt` alone."""
    return hash_contents(images, salt) / 2.0**64


def hash_contents(images: np.ndarray, salt: bytes = b"") -> np.ndarray:
    """A number for each image's content, uint64: equal for equal images, and by all odds only for them."""
    digests = b"".join(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, key=salt).digest()
        for image in images
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
