"""Hash-based train, validation and test splits, of about the same fractions in each class."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.images.allocate import Allocate, allocate_in_memory, copy_rows

SALTS = TEST_SALT, VALIDATION_SALT = b"relearn test", b"relearn validation"
# Classes up to this size are split to within one image. In larger ones the accepted deviation grows by half
# an image with each image, so that no image jumps; from about 150 images on the hash alone decides.
SMALL_CLASS, DEVIATION_GROWTH = 125, 0.5


@dataclass(frozen=True)
class Splits:
    """The three splits of a dataset; splits made by `split_dataset` share no image and no group."""

    train: LabelledImages
    validation: LabelledImages
    test: LabelledImages

    @property
    def train_val_hashes(self) -> np.ndarray:
        """Hashes of source and pixels of the training and validation images, uint64 (n, 2)."""
        learned = (self.train, self.validation)
        return np.concatenate(
            [np.stack([hash_sources(split)[:, 0], hash_contents(split.images)], 1) for split in learned]
        )


def split_dataset(
    dataset: Dataset,
    test_fraction: float,
    validation_fraction: float,
    allocate: Allocate = allocate_in_memory,
) -> Splits:
    """Split `dataset` by a hash of each image's source, or of its group.

    The split of an image depends on neither the size nor the channels to which images are resized, nor on the
    order of the data. Equal images share it, and so do the images of a group. A dataset's own test split is
    not changed: images of its groups are left out of training and validation. The fractions are met in each
    class: to within one image up to SMALL_CLASS images, else to about √(fraction · (1 − fraction) / n). A
    class of three different images has one in each split.

    An image keeps its split when the data grow, in classes of 150 images or more. In smaller ones each new
    image may move one other image (or group) of its class into the test split or out of it, and so for
    validation. A new near-duplicate that joins a group may move all of it.
    """
    remaining, test, validation = dataset.train, dataset.test, dataset.validation
    if test is None:
        min_remaining = 2 if validation is None else 1
        remaining, test = _split_each_class(remaining, test_fraction, TEST_SALT, min_remaining, allocate)
    if validation is None:
        remaining, validation = _split_each_class(
            remaining, validation_fraction, VALIDATION_SALT, 1, allocate
        )
    validation = _leave_out_groups(validation, test, allocate)
    remaining = _leave_out_groups(_leave_out_groups(remaining, test, allocate), validation, allocate)
    return Splits(remaining, validation, test)


def _leave_out_groups(images: LabelledImages, other: LabelledImages, allocate: Allocate) -> LabelledImages:
    """Return the images whose group has none in `other`."""
    is_shared = np.isin(get_groups(images)[:, 0], get_groups(other)[:, 0])
    return take(images, ~is_shared, allocate) if is_shared.any() else images


def _split_each_class(
    images: LabelledImages, fraction: float, salt: bytes, min_remaining: int, allocate: Allocate
) -> tuple[LabelledImages, LabelledImages]:
    """Split about `fraction` from each class; `min_remaining` images or groups of a class remain."""
    positions = _find_positions(images, salt)
    is_selected = positions < fraction
    for label in np.unique(images.labels):
        in_class = images.labels == label
        groups, counts = np.unique(positions[in_class], return_counts=True)
        if len(groups) > min_remaining:
            selected = np.clip(_count_selected(groups, counts, fraction), 1, len(groups) - min_remaining)
            is_selected[in_class] = positions[in_class] <= groups[selected - 1]
    is_selected = np.isin(positions, positions[is_selected])  # a group may be in several classes
    return take(images, ~is_selected, allocate), take(images, is_selected, allocate)


def _count_selected(positions: np.ndarray, counts: np.ndarray, fraction: float) -> int:
    """Return how many of the sorted `positions` (0..1) are selected; each stands for `counts` images.

    It is the number below `fraction`, moved as little as the accepted deviation demands.
    """
    images = np.concatenate([[0], np.cumsum(counts)])  # selected with 0, 1, 2, … positions
    target = fraction * images[-1]
    deviation = max(1.0, DEVIATION_GROWTH * (images[-1] - SMALL_CLASS))
    min_count = int(np.searchsorted(images, target - deviation))
    max_count = int(np.searchsorted(images, target + deviation, side="right")) - 1
    below = int(np.searchsorted(positions, fraction))
    return int(np.clip(below, min(min_count, max_count), max(min_count, max_count)))


def split_by_hash(
    images: LabelledImages, fraction: float, salt: bytes
) -> tuple[LabelledImages, LabelledImages]:
    """Return two parts: the rest, and about `fraction` of the images, chosen by source and `salt`."""
    is_selected = _find_positions(images, salt) < fraction
    return take(images, ~is_selected), take(images, is_selected)


def take(
    images: LabelledImages, selection: np.ndarray, allocate: Allocate = allocate_in_memory
) -> LabelledImages:
    """Copy images and their labels that a bool mask or indices select."""
    arrays = {name: array for name, array in vars(images).items() if array is not None}
    pixels = copy_rows(arrays.pop("images"), selection, allocate)
    return replace(images, images=pixels, **{name: array[selection] for name, array in arrays.items()})


def _find_positions(images: LabelledImages, salt: bytes) -> np.ndarray:
    """Map each image to a number in 0–1 that depends on its group and `salt` alone, float64 (n,)."""
    return get_groups(images)[:, SALTS.index(salt)] / 2.0**64


def get_groups(images: LabelledImages) -> np.ndarray:
    """Return the group of each image as hashes, uint64 (n, 2): its source where it stands alone."""
    return hash_sources(images) if images.groups is None else images.groups


def hash_sources(images: LabelledImages) -> np.ndarray:
    """Return the hashes of what the images were made from, uint64 (n, 2): one for each of SALTS."""
    return hash_with_salts(images.images) if images.sources is None else images.sources


def find_learned(images: LabelledImages, training_hashes: np.ndarray) -> np.ndarray:
    """Find the images that a classifier learned from, by their source or their pixels, bool (n,).

    `training_hashes`, uint64 (n, 2), are those of the classifier, from `Splits.train_val_hashes`.
    """
    has_source = np.isin(hash_sources(images)[:, 0], training_hashes)
    return has_source | np.isin(hash_contents(images.images), training_hashes)


def hash_with_salts(contents: np.ndarray) -> np.ndarray:
    """Hash each row of `contents` with each of SALTS, uint64 (n, 2)."""
    return np.stack([hash_contents(contents, salt) for salt in SALTS], axis=1)


def hash_contents(images: np.ndarray, salt: bytes = b"") -> np.ndarray:
    """Hash each image's content, uint64 (n,); unequal images have equal hashes almost never."""
    digests = b"".join(
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, key=salt).digest()
        for image in images
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
