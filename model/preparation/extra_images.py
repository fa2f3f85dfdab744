"""Extra images for training, merged into a dataset."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict

from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.splits import (
    VALIDATION_SALT,
    Splits,
    get_groups,
    hash_contents,
    hash_sources,
    split_by_hash,
    take,
)
from relearn.model.images.allocate import Allocate, allocate_in_memory


@dataclass(frozen=True, eq=False)
class ExtraImages:
    """Images to add to a training.

    `images` are uint8 (channels, height, width), whose shapes may differ, `labels` their class names.
    `last_decision` is the number of the last feedback decision that was applied; with it the caller can
    collect the same images again.
    """

    images: tuple[np.ndarray, ...] = ()
    labels: tuple[str, ...] = ()
    last_decision: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of images and labels in any order; "" without any."""
        image_lines = [
            f"{image.shape} {hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()} {label}"
            for image, label in zip(self.images, self.labels, strict=True)
        ]
        return _compute_digest(image_lines)


class MergeSummary(BaseModel):
    """Counts of a merge: extra images `merged` and `rejected`, and images `removed` from the dataset.

    An extra image of an unknown class or another shape, or equal to a test image, is rejected. An image
    that is replaced by an extra image is removed. `digest` is the SHA-256 of all changes, "" without
    any; `last_decision` is copied from the `ExtraImages`.
    """

    model_config = ConfigDict(frozen=True)

    merged: int
    rejected: int
    removed: int
    digest: str
    last_decision: int


def merge_extra_images(
    dataset: Dataset,
    splits: Splits,
    extra_images: ExtraImages,
    validation_fraction: float,
    allocate: Allocate = allocate_in_memory,
) -> tuple[Splits, MergeSummary]:
    """Merge `extra_images` into the train and validation splits of `dataset`.

    As for all images, the content hash decides between the two splits. An extra image replaces an equal
    image of the dataset. The test split does not change; extra images equal to a test image are rejected.
    """
    mergeable, merged_hashes = _select_mergeable(dataset, splits, extra_images)
    remaining, removed_count = list[LabelledImages](), 0
    for split in (splits.train, splits.validation):
        is_removed = np.isin(hash_contents(split.images), merged_hashes)
        remaining.append(take(split, ~is_removed, allocate))
        removed_count += int(is_removed.sum())
    extra_splits = split_by_hash(mergeable, validation_fraction, VALIDATION_SALT)
    train, validation = (
        _concatenate(split, extra, allocate) for split, extra in zip(remaining, extra_splits, strict=True)
    )
    image_lines = [
        f"{content_hash} {dataset.classes[label]}"
        for content_hash, label in zip(merged_hashes, mergeable.labels, strict=True)
    ]
    summary = MergeSummary(
        merged=len(mergeable),
        rejected=len(extra_images.images) - len(mergeable),
        removed=removed_count,
        digest=_compute_digest(image_lines),
        last_decision=extra_images.last_decision,
    )
    return replace(splits, train=train, validation=validation), summary


def _select_mergeable(
    dataset: Dataset, splits: Splits, extra_images: ExtraImages
) -> tuple[LabelledImages, np.ndarray]:
    """Return the images that may be merged, without duplicates, and their hashes; both sorted by hash."""
    class_indices = {name: index for index, name in enumerate(dataset.classes)}
    pairs = [
        (image, class_indices[label])
        for image, label in zip(extra_images.images, extra_images.labels, strict=True)
        if label in class_indices and image.shape == dataset.shape
    ]
    images = np.array([image for image, _ in pairs], np.uint8).reshape(-1, *dataset.shape)
    labels = np.array([label for _, label in pairs], np.int64)
    unique_hashes, first_positions = np.unique(hash_contents(images), return_index=True)
    is_allowed = ~np.isin(unique_hashes, hash_contents(splits.test.images))
    return take(LabelledImages(images, labels), first_positions[is_allowed]), unique_hashes[is_allowed]


def _concatenate(first: LabelledImages, second: LabelledImages, allocate: Allocate) -> LabelledImages:
    if not len(second):
        return first
    images = allocate((len(first) + len(second), *first.images.shape[1:]))
    np.concatenate([first.images, second.images], out=images)
    places = None if first.places is None else np.concatenate([first.places, [""] * len(second)])
    sources, groups = (
        np.concatenate([hashes(first), hashes(second)]) for hashes in (hash_sources, get_groups)
    )
    return LabelledImages(images, np.concatenate([first.labels, second.labels]), places, sources, groups)


def _compute_digest(image_lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(image_lines)).encode()).hexdigest() if image_lines else ""
