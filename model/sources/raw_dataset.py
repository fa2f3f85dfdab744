"""Datasets as a reader returns them: images with class names, before classes get numbers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from relearn.model.errors import DataError
from relearn.model.images.decode_many import DamagedImage, ImageSource, decode_images
from relearn.model.sources.description import DataDescription, SplitName
from relearn.model.sources.read_options import ReadOptions

MAX_NAMED_FILES = 20  # in one message
SPLIT_ORDER: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class RawSplit:
    """Images, uint8 (n, channels, height, width), their class names and their places, str (n,)."""

    images: np.ndarray
    labels: np.ndarray
    places: np.ndarray


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
    """An image file with its split and class name."""

    source: ImageSource
    split: SplitName
    label: str


class DamagedImagesError(DataError):
    """Image files that cannot be decoded; `damaged` has all of them, the message the first ones."""

    code = "damaged_images"

    def __init__(self, subject: str, damaged: Sequence[DamagedImage], total: int) -> None:
        self.damaged = tuple(damaged)
        names = "; ".join(f"{image.name}: {image.reason}" for image in damaged[:MAX_NAMED_FILES])
        more = f"; and {len(damaged) - MAX_NAMED_FILES:,} more" if len(damaged) > MAX_NAMED_FILES else ""
        super().__init__(
            f"{subject}: {len(damaged):,} of {total:,} images cannot be read, the first is {names}{more}. "
            f"To skip them, write `skip_damaged = {len(damaged)}` into dataset.toml"
        )


def read_image_rows(
    description: DataDescription, rows: Sequence[ImageRow], options: ReadOptions
) -> RawDataset:
    """Decode image files to splits, up to `limit` of them; skip as many damaged ones as allowed."""
    labels = np.array([row.label for row in rows], dtype=str)
    if options.limit is not None:
        rows = [rows[position] for position in select_stratified(labels, options.limit)]
    rows = sorted(rows, key=lambda row: SPLIT_ORDER.index(row.split))  # each split is a slice, not a copy
    images, notes, damaged, is_resized = decode_images(
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
        group_by_split(
            images,
            np.array([row.label for row in rows], dtype=str),
            np.array([row.source.name for row in rows], dtype=str),
            [row.split for row in rows],
        ),
        notes,
        skipped,
        is_resized,
    )


def group_by_split(
    images: np.ndarray, labels: np.ndarray, places: np.ndarray, splits: Sequence[SplitName]
) -> dict[SplitName, RawSplit]:
    """Divide images by their split, in their order."""
    positions = defaultdict[SplitName, list[int]](list)
    for position, split in enumerate(splits):
        positions[split].append(position)
    return {
        split: RawSplit(*(values[_as_slice(chosen)] for values in (images, labels, places)))
        for split, chosen in positions.items()
    }


def _as_slice(positions: list[int]) -> list[int] | slice:
    """Return neighbors as a slice, which is not copied."""
    first, last = positions[0], positions[-1]
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions


def select_stratified(labels: np.ndarray, limit: int) -> list[int]:
    """Select about `limit` positions in their order, evenly from each class, at least one of each."""
    selected = list[int]()
    for name in np.unique(labels):
        positions = np.flatnonzero(labels == name)
        count = min(len(positions), max(1, round(limit * len(positions) / len(labels))))
        selected += positions[np.linspace(0, len(positions) - 1, count).astype(int)].tolist()
    return sorted(selected)
