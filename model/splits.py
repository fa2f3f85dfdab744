"""Who learns, who decides when to stop, who judges: train, validation, test."""

import hashlib
from dataclasses import dataclass

import numpy as np

from relearn.model.datasets import Dataset, LabelledImages

TEST_SALT, VALIDATION_SALT = b"relearn test", b"relearn validation"


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset; no image content stands in more than one that we cut ourselves."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages

    @property
    def seen(self) -> np.ndarray:
        """What a training looks at, by content, uint64: images to learn from, and to choose an epoch by."""
        return np.concatenate([contents(self.train.images), contents(self.validation.images)])


def split(dataset: Dataset, test_share: float, validation_share: float) -> Splits:
    """Cut `dataset` by a hash of each image's content.

    An image keeps its split when the data grows, equal images land together, and the order of the data
    does not matter. A test part that the dataset brings stays whole. Shares are met to about
    √(share · (1 − share) / n).
    """
    rest, test = dataset.train, dataset.test
    if test is None:
        rest, test = cut(rest, test_share, TEST_SALT)
    train, validation = cut(rest, validation_share, VALIDATION_SALT)
    return Splits(train, validation, test)


def cut(images: LabelledImages, share: float, salt: bytes) -> tuple[LabelledImages, LabelledImages]:
    """What stays, and about `share` of the images, drawn by their contents and `salt` alone."""
    chosen = position(images.images, salt) < share
    return where(images, ~chosen), where(images, chosen)


def where(images: LabelledImages, chosen: np.ndarray) -> LabelledImages:
    """Those that `chosen` names, by a bool or an index for each."""
    return LabelledImages(images.images[chosen], images.labels[chosen])


def position(images: np.ndarray, salt: bytes) -> np.ndarray:
    """A number in 0–1 for each image, drawn by its content and `salt` alone."""
    return contents(images, salt) / 2.0**64


def contents(images: np.ndarray, salt: bytes = b"") -> np.ndarray:
    """A number for each image's content, uint64: equal for equal images, and by all odds only for them."""
    digests = b"".join(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, key=salt).digest()
        for image in images
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
