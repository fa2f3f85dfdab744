"""Hash-based train, validation and test splits."""

import hashlib
from dataclasses import dataclass

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages

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


def split_dataset(dataset: Dataset, test_fraction: float, validation_fraction: float) -> Splits:
    """Split `dataset` by a hash of each image's content.

    An image keeps its split when the data grows, equal images share a split, and the order of the data
    does not matter. If the dataset has a test split, it stays. Fractions are approximate, with a standard
    deviation of √(fraction · (1 − fraction) / n).
    """
    remaining, test = dataset.train, dataset.test
    if test is None:
        remaining, test = split_by_hash(remaining, test_fraction, TEST_SALT)
    train, validation = split_by_hash(remaining, validation_fraction, VALIDATION_SALT)
    return Splits(train, validation, test)


def split_by_hash(
    images: LabelledImages, fraction: float, salt: bytes
) -> tuple[LabelledImages, LabelledImages]:
    """Return two parts: the rest, and about `fraction` of the images, chosen by content and `salt`."""
    is_selected = hash_to_fraction(images.images, salt) < fraction
    return take(images, ~is_selected), take(images, is_selected)


def take(images: LabelledImages, selection: np.ndarray) -> LabelledImages:
    """Select images and their labels by a bool mask or by indices."""
    return LabelledImages(images.images[selection], images.labels[selection])


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
