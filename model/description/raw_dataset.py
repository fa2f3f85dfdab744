"""Datasets as a reader returns them: splits of images with class names, before classes get numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import numpy as np

from relearn.model.description.source_description import BELOW_SOURCE, SPLITS, DataDescription, SplitName
from relearn.model.errors import DataError
from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode_many import (
    DamagedImage,
    ImageSource,
    OnProgress,
    decode_images,
    ignore_progress,
)

MAX_NAMED_FILES = 20  # in one message


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reading that are not in the description of the source.

    They are side and channels of the images, by default as in the data, about how many, and where they are
    kept.
    """

    image_size: int | None = None
    channels: int | None = None
    limit: int | None = None
    allocate: Allocate = allocate_in_memory
    on_progress: OnProgress = ignore_progress


@dataclass(frozen=True)
class RawSplit:
    """Images, uint8 (n, channels, height, width), their class names and their places, str (n,).

    `groups`, str (n,), are names of what images belong to, where the description has them. `digests`,
    uint8 (n, 16), and `perceptual_hashes`, uint64 (n,), are those of image files; None for bare pixels.
    """

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    groups: np.ndarray | None = None
    digests: np.ndarray | None = None
    perceptual_hashes: np.ndarray | None = None

    def take(self, selection: np.ndarray | slice) -> Self:
        """Return the images of a slice, a bool mask or indices; a slice is not copied."""
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        return replace(self, **{name: array[selection] for name, array in arrays.items()})


@dataclass(frozen=True)
class RawDataset:
    """Splits as a reader returns them, warnings, and damaged images that were skipped, with SHA-256.

    `is_resized` says that whole images were resized to the shape of all.
    """

    splits: dict[SplitName, RawSplit]
    notes: Sequence[str] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    is_resized: bool = False


class ImageRow(NamedTuple):
    """An image file with its split and class name, and the name of its group, "" for none."""

    source: ImageSource
    split: SplitName
    label: str
    group: str = ""


class DamagedImagesError(DataError):
    """Image files that cannot be decoded; `damaged` has all of them, the message the first ones."""

    code = "damaged_images"

    def __init__(self, subject: str, damaged: Sequence[DamagedImage], total: int) -> None:
        self.damaged = tuple(damaged)
        names = "; ".join(f"{image.name}: {image.reason}" for image in damaged[:MAX_NAMED_FILES])
        more = f"; and {len(damaged) - MAX_NAMED_FILES:,} more" if len(damaged) > MAX_NAMED_FILES else ""
        super().__init__(
            f"{subject}: {len(damaged):,} of {total:,} images cannot be read, the first is {names}{more}. "
            f"To skip them, write `skip_damaged = {len(damaged)}` into {BELOW_SOURCE}"
        )


def read_image_rows(
    description: DataDescription, rows: Sequence[ImageRow], options: ReadOptions
) -> RawDataset:
    """Decode image files to splits, up to `limit` of them; skip as many damaged ones as allowed."""
    if options.limit is not None:
        labels = np.array([row.label for row in rows], dtype=str)
        rows = [rows[position] for position in select_stratified(labels, options.limit)]
    rows = sorted(rows, key=lambda row: SPLITS.index(row.split))  # each split is a slice, not a copy
    images, digests, perceptual_hashes, notes, damaged, is_resized = decode_images(
        [row.source for row in rows],
        options.image_size or description.image_size,
        description.scale,
        options.channels,
        options.allocate,
        options.on_progress,
    )
    if len(damaged) > description.skip_damaged:
        raise DamagedImagesError(str(description.source), damaged, len(rows))
    skipped = {image.name: image.sha256 for image in damaged}
    if description.skipped and skipped != description.skipped and options.limit is None:
        raise DataError(f"{description.source}: other images are damaged than those listed as skipped")
    if damaged:
        notes.append(f"{len(damaged):,} damaged images were skipped, the first is {damaged[0].name}")
        positions = {image.position for image in damaged}
        rows = [row for position, row in enumerate(rows) if position not in positions]
    return RawDataset(
        divide_by_split(
            RawSplit(
                images,
                np.array([row.label for row in rows], dtype=str),
                np.array([row.source.name for row in rows], dtype=str),
                np.array([row.group for row in rows], dtype=str) if description.has_groups else None,
                digests,
                perceptual_hashes,
            ),
            [row.split for row in rows],
        ),
        notes,
        skipped,
        is_resized,
    )


def divide_by_split(images: RawSplit, splits: Sequence[SplitName]) -> dict[SplitName, RawSplit]:
    """Divide images by their split, in their order; neighbors become a slice, which is not copied."""
    divided = dict[SplitName, RawSplit]()
    names = np.array(splits, dtype=str)
    for split in dict.fromkeys(splits):
        chosen = np.flatnonzero(names == split)
        first, last = chosen[0], chosen[-1] + 1
        part = slice(first, last) if last - first == len(chosen) else chosen
        divided[split] = images.take(part)
    return divided


def select_stratified(labels: np.ndarray, limit: int) -> list[int]:
    """Select about `limit` positions in their order, evenly from each class, at least one of each."""
    selected = list[int]()
    for name in np.unique(labels):
        positions = np.flatnonzero(labels == name)
        count = min(len(positions), max(1, round(limit * len(positions) / len(labels))))
        selected += positions[np.linspace(0, len(positions) - 1, count).astype(int)].tolist()
    return sorted(selected)


def count_splits(splits: Iterable[SplitName | None]) -> dict[SplitName, int]:
    """Count the images of each split that has any."""
    counts = Counter(splits)
    return {split: counts[split] for split in SPLITS if counts[split]}
