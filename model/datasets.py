"""Labelled images, wherever they come from, in one form."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from model.config import TrainConfig
from model.home import Home

Style = Literal["strokes", "plain"]
"""`strokes`: bright strokes on a dark ground, centred by mass (the MNIST convention). `plain`: photos."""


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
    source: str
    classes: tuple[str, ...]
    style: Style
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
        for part in (self.train, self.test):
            if part is None:
                digest.update(b"none")
                continue
            digest.update(repr(part.images.shape).encode())
            digest.update(np.ascontiguousarray(part.images).data)
            digest.update(np.ascontiguousarray(part.labels).data)
        return digest.hexdigest()


def load(config: TrainConfig, home: Home) -> Dataset:
    """Load the dataset that `config` names; `auto` is MNIST where it is on disk, else digits."""
    raise NotImplementedError
