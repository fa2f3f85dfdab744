"""Labeled images and datasets: the types that all sources are read into."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relearn.model.images.decode import ImageStyle


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images, uint8 (n, channels, height, width), and their labels, int64 (n,), 0 <= label < classes."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named classes of images in one shape, with a test part of its own or without.

    `source` is what was asked for ("mnist", "folder:/data/pets"), `notes` are warnings of loading.
    """

    name: str
    uri: str
    classes: tuple[str, ...]
    style: ImageStyle
    train: LabelledImages
    test: LabelledImages | None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of images, labels, class names and parts, in their order."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for split in (self.train, self.test):
            if split is None:
                digest.update(b"none")
                continue
            digest.update(repr(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels).data)
        return digest.hexdigest()
