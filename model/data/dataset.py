"""`LabelledImages` and `Dataset`: the types to which every data source is read."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from relearn.model.description.source_description import DataDescription
from relearn.model.images.resize import ImageStyle


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images, uint8 (n, channels, height, width), and their labels, int64 (n,), 0 <= label < classes.

    `places` has the file or row of each, str (n,), where it is known. `sources`, uint64 (n, 2), are hashes of
    what each was made from, the bytes of its file or its pixels before any resizing, with the two salts of
    the splits; None where `images` are these pixels. `groups`, uint64 (n, 2), are such hashes of images that
    belong together; None where each image stands alone.
    """

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray | None = None
    sources: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of named classes in one shape, with or without test and validation splits of their own.

    `uri` is the source ("mnist", "folder:/data/pets"), `notes` are warnings from loading, `description` says
    how a custom source was read.
    """

    name: str
    uri: str
    classes: tuple[str, ...]
    style: ImageStyle
    train: LabelledImages
    test: LabelledImages | None
    notes: tuple[str, ...] = ()
    validation: LabelledImages | None = None
    description: DataDescription | None = None

    @property
    def splits(self) -> dict[str, LabelledImages]:
        """The splits that the source has, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def with_splits(self, splits: Mapping[str, LabelledImages]) -> Self:
        """Return a copy with these splits, by name."""
        train, test, validation = (splits.get(name) for name in ("train", "test", "validation"))
        return replace(self, train=train or self.train, test=test, validation=validation)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of images, labels, class names and splits, in their order."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test, *([self.validation] if self.validation is not None else [])):
            if split is None:
                digest.update(b"none")
                continue
            digest.update(repr(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()
