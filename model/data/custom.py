"""Reading of custom datasets: the layout of a description chooses the reader."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.groups import assign_groups
from relearn.model.data.splits import hash_with_salts
from relearn.model.description.raw_dataset import (
    ImageRow,
    RawDataset,
    RawSplit,
    ReadOptions,
    read_image_rows,
    select_stratified,
)
from relearn.model.description.source_description import DataDescription
from relearn.model.errors import DataError, InfrastructureError
from relearn.model.images.mnist_style import has_mnist_form
from relearn.model.images.resize import ImageStyle, is_bright_on_dark
from relearn.model.sources.bare_pixels import read_arrays, read_pixel_tables
from relearn.model.sources.file_lists import list_rows
from relearn.model.sources.folders import list_folder_rows
from relearn.model.sources.image_survey import list_images
from relearn.model.sources.inspect import inspect_source, single_file_tree
from relearn.model.sources.tables import TableFile, open_table
from relearn.model.sources.tree import FileTree, SourceKind, open_tree

DARK_THRESHOLD = 32  # of 255; darker pixels are background
STYLE_SAMPLE_SIZE = 1000  # images from which the style is inferred


def load_custom(kind: SourceKind, path: Path, options: ReadOptions, name: str) -> Dataset:
    """Inspect and read a custom dataset; its classes are those of its description."""
    description = inspect_source(path, kind=kind)
    raw = read_source(description, options)
    if raw.skipped:
        description = description.model_copy(update={"skipped": raw.skipped})
    if options.limit is not None:
        count = sum(len(part.labels) for part in raw.splits.values())
        note = f"a first look at {count:,} of {sum(description.counts.values()):,} images, as --limit says"
        raw = replace(raw, notes=[*raw.notes, note])
    splits: dict[str, LabelledImages] = {
        split: _encode_labels(part, description) for split, part in raw.splits.items()
    }
    if "train" not in splits:
        raise DataError(f"{path} has no training images")
    _check_test_classes(path, raw)
    # Requests are resized as the images were.
    style = "photo" if raw.is_resized else infer_style(splits["train"].images)
    groups, hashes = (_collect(raw, name) for name in ("groups", "perceptual_hashes"))
    splits = assign_groups(splits, style, groups, hashes)
    return Dataset(
        name=name,
        uri=f"{kind}:{path}",
        classes=description.classes,
        style=style,
        train=splits["train"],
        test=splits.get("test"),
        notes=(*description.warnings, *raw.notes),
        validation=splits.get("validation"),
        description=description,
    )


def read_source(description: DataDescription, options: ReadOptions) -> RawDataset:
    """Read what `description` says and nothing else: at most about `limit` images, evenly from each class."""
    try:
        if description.layout == "arrays":
            return _take(read_arrays(description), options.limit)
        if description.layout == "pixel_table":
            with _open(description) as (_, tables):
                return _take(read_pixel_tables(tables, description, options.allocate), options.limit)
        with open_image_rows(description) as rows:
            return read_image_rows(description, rows, options)
    except OSError as error:
        what = error.filename or description.source
        action = f"keep the images of {what}" if error.errno == errno.ENOSPC else f"read {what}"
        raise InfrastructureError(f"cannot {action}: {error.strerror or error}") from None


def infer_style(images: np.ndarray) -> ImageStyle:
    """Infer the style of `images`: how images of other sizes are fitted to their shape.

    `photo` unless the images are gray, all bright on dark, and at least 9 of 10 have a dark border, as digits
    on a dark background have (98.9 % of MNIST's). Then `mnist` if all have MNIST's form, else `drawing`.
    """
    sample = images[:: max(1, len(images) // STYLE_SAMPLE_SIZE)]
    edges = np.concatenate([sample[..., 0, :], sample[..., -1, :], sample[..., 0], sample[..., -1]], axis=-1)
    dark_edge_fraction = (edges < DARK_THRESHOLD).all(axis=(1, 2)).mean()
    if images.shape[1] != 1 or dark_edge_fraction < 0.9 or not is_bright_on_dark(images[:, 0]).all():
        return "photo"
    return "mnist" if has_mnist_form(images[:, 0]).all() else "drawing"


def _encode_labels(raw_split: RawSplit, description: DataDescription) -> LabelledImages:
    class_names, inverse = np.unique(raw_split.labels, return_inverse=True)
    unknown = sorted(set(class_names.tolist()) - set(description.classes))
    if unknown:
        raise DataError(
            f"{description.source} has the class {unknown[0]!r}, which its description does not list"
        )
    indices = np.array([description.classes.index(name) for name in class_names.tolist()], np.int64)
    sources = None if raw_split.digests is None else hash_with_salts(raw_split.digests)
    return LabelledImages(raw_split.images, indices[inverse], raw_split.places, sources)


def _collect(raw: RawDataset, name: str) -> list[np.ndarray] | None:
    """Return an optional array of every split; None if the reader has none."""
    arrays = [getattr(part, name) for part in raw.splits.values()]
    return None if any(array is None for array in arrays) else arrays


def _check_test_classes(path: Path, raw: RawDataset) -> None:
    train_classes = set(raw.splits["train"].labels.tolist())
    for split, part in raw.splits.items():
        unknown = sorted(set(part.labels.tolist()) - train_classes)
        if unknown:
            raise DataError(
                f"{path}: no training image has the class {', '.join(unknown[:5])} of the {split} images, "
                "accepted: test images of the classes that are trained"
            )


def _take(raw: RawDataset, limit: int | None) -> RawDataset:
    """Select about `limit` images, evenly from each class of each split."""
    if limit is None:
        return raw
    total = sum(len(part.labels) for part in raw.splits.values())
    splits = {}
    for split, part in raw.splits.items():
        chosen = select_stratified(part.labels, max(1, round(limit * len(part.labels) / total)))
        splits[split] = part.take(np.array(chosen))
    return replace(raw, splits=splits)


@contextmanager
def open_image_rows(description: DataDescription) -> Iterator[list[ImageRow]]:
    """Open the image files of a source, and list them with split and class."""
    with _open(description) as (tree, tables):
        images = [] if description.layout == "image_table" else list_images(tree)
        if description.layout in ("folder", "file_names"):
            yield list_folder_rows(tree, description, images)
        else:
            yield list_rows(tree, tables, description, images)[0]


@contextmanager
def _open(description: DataDescription) -> Iterator[tuple[FileTree, list[TableFile]]]:
    """Open the files and the tables of a source."""
    source, choices = description.source, {"separator": description.separator, "header": description.header}
    names = description.tables
    with ExitStack() as stack:
        if description.layout in ("image_table", "pixel_table") and (not names or str(source) in names):
            tree, names = single_file_tree(source), (str(source),)
        else:
            tree = stack.enter_context(open_tree(source.parent if source.name in names else source))
        yield tree, [open_table(name, partial(tree.open_file, name), choices) for name in names]
