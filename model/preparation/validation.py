"""Validation of a dataset before training."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from relearn.model.data.dataset import Dataset, LabelledImages
from relearn.model.data.splits import Splits, get_groups, hash_contents

UNEVEN_RATIO, IMBALANCED_RATIO = 1.5, 3.0  # largest class : smallest class


@dataclass(frozen=True)
class Finding:
    """A problem in the data: level `error` forbids training, `warning` does not.

    `example` is the first place where it occurs.
    """

    level: Literal["error", "warning"]
    check: str
    message: str
    count: int
    example: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.count}; {self.example})" if self.example else self.message


def validate_dataset(dataset: Dataset, splits: Splits) -> list[Finding]:
    """Return all findings, errors first. Invalid types, shapes or labels end the validation."""
    findings = list(_check_types(dataset))
    if not findings:
        findings = [*_check_splits(dataset, splits), *_check_classes(dataset), *_check_content(dataset)]
    findings += [Finding("warning", "loading", note, 1) for note in dataset.notes]
    return sorted(findings, key=lambda finding: finding.level)


def findings_table(findings: list[Finding]) -> pd.DataFrame:
    """Build a table with one row per finding."""
    return pd.DataFrame(map(asdict, findings), columns=["level", "check", "message", "count", "example"])


def measure_class_balance(counts: np.ndarray) -> tuple[float, str]:
    """Return the ratio of the largest to the smallest class, and its category."""
    ratio = float(counts.max() / counts.min()) if counts.min() else float("inf")
    category = "balanced" if ratio < UNEVEN_RATIO else "uneven" if ratio < IMBALANCED_RATIO else "imbalanced"
    return ratio, category


def _check_types(dataset: Dataset) -> Iterator[Finding]:
    expected_shape, classes = dataset.train.images.shape[1:], len(dataset.classes)
    for name, split in dataset.splits.items():
        images, labels = split.images, split.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            got = f"{images.dtype} {images.shape}"
            yield _error("images", f"{name} images are {got}, accepted: uint8 (n, c, h, w)")
        elif images.shape[1:] != expected_shape:
            yield _error("shape", f"{name} images are {images.shape[1:]}, those of train {expected_shape}")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            got = f"{labels.dtype} {labels.shape}"
            yield _error("labels", f"{name} labels are {got}, accepted: int64 ({len(images)},)")
            continue
        out_of_range = np.flatnonzero((labels < 0) | (labels >= classes))
        for first in out_of_range[:1]:
            message, example = f"{name} has labels outside 0 to {classes - 1}", f"image {first} has label"
            yield _error("label range", message, len(out_of_range), f"{example} {labels[first]}")


def _check_splits(dataset: Dataset, splits: Splits) -> Iterator[Finding]:
    for name in ("train", "validation", "test"):
        labels = getattr(splits, name).labels
        missing_classes = np.flatnonzero(np.bincount(labels, minlength=len(dataset.classes)) == 0)
        if not len(labels):
            count = sum(map(len, (splits.train, splits.validation, splits.test)))
            message = f"no image is in {name}: got {count} images, accepted: three or more of a class"
            yield _error("empty split", message)
        elif len(missing_classes):
            message, example = f"classes without an image in {name}", dataset.classes[missing_classes[0]]
            yield _warning("missing class", message, len(missing_classes), example)


def _check_classes(dataset: Dataset) -> Iterator[Finding]:
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    counts = pd.Series(np.bincount(labels, minlength=len(dataset.classes)), dataset.classes)
    present_classes = counts[counts > 0]
    if len(present_classes) < 2:
        names = ", ".join(present_classes.index) or "none"
        yield _error("classes", f"at least two classes need images, got {len(present_classes)}: {names}")
        return
    ratio, category = measure_class_balance(present_classes.to_numpy())
    if category == "imbalanced":
        message = f"the largest class has {ratio:.1f} times the images of the smallest"
        example = ", ".join(
            f"{name}: {present_classes[name]}"
            for name in map(str, (present_classes.idxmax(), present_classes.idxmin()))
        )
        yield _warning("imbalance", message, int(present_classes.max()), example)


def _check_content(dataset: Dataset) -> Iterator[Finding]:
    hashes = {name: hash_contents(split.images) for name, split in dataset.splits.items()}
    count = sum(map(len, hashes.values()))
    if len(np.unique(np.concatenate(list(hashes.values())))) == 1:
        hint = "white strokes on a transparent ground are not visible, as that ground becomes white"
        yield _error("equal images", f"all {count:,} images are equal; {hint}", count)
        return
    for name, split in dataset.splits.items():
        yield from _check_constant_images(name, split)
        yield from _check_duplicates(name, split, hashes[name], dataset.classes)
    for name in hashes.keys() - {"train"}:
        yield from _check_leakage(name, dataset, hashes)
    if dataset.description is not None and not dataset.description.has_groups:
        yield from _check_near_duplicates(dataset, hashes)


def _check_constant_images(name: str, split: LabelledImages) -> Iterator[Finding]:
    constant_indices = [index for index, image in enumerate(split.images) if (image == image.flat[0]).all()]
    for first in constant_indices[:1]:
        example = f"image {first}: all {split.images[first].flat[0]}"
        yield _warning("constant image", f"{name} images of a single value", len(constant_indices), example)


def _check_duplicates(
    name: str, split: LabelledImages, hashes: np.ndarray, classes: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield findings for duplicate images in a split, and for duplicates with different labels."""
    order = np.argsort(hashes, kind="stable")
    pairs = np.stack([order[:-1], order[1:]], 1)[hashes[order[:-1]] == hashes[order[1:]]]
    conflicting = pairs[split.labels[pairs[:, 0]] != split.labels[pairs[:, 1]]]
    for first_image, second_image in pairs[:1]:
        example = " and ".join(_name_image("image", split, image) for image in (first_image, second_image))
        yield _warning("duplicate", f"{name} images that repeat another", len(pairs), example)
    for pair in conflicting[:1]:
        message = f"{name} images that repeat another under a different label"
        example = ", ".join(f"image {image} is {classes[split.labels[image]]}" for image in pair)
        yield _warning("two labels", message, len(conflicting), example)


def _check_leakage(name: str, dataset: Dataset, hashes: dict[str, np.ndarray]) -> Iterator[Finding]:
    train, other = hashes["train"], hashes[name]
    leaked_indices = np.flatnonzero(np.isin(other, train))
    if len(leaked_indices) == len(other):
        message = f"every {name} image is a training image, so a {name} score would be meaningless"
        yield _error("leak", message, len(leaked_indices))
    elif len(leaked_indices):
        message = f"{name} images that are training images ({len(leaked_indices) / len(other):.2%})"
        first, original = leaked_indices[0], np.flatnonzero(train == other[leaked_indices[0]])[0]
        leaked = _name_image(name, dataset.splits[name], first)
        example = f"{leaked} is {_name_image('train', dataset.train, original)}"
        yield _warning("leak", message, len(leaked_indices), example)


def _check_near_duplicates(dataset: Dataset, hashes: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Yield a finding for photos that nearly repeat another under a different label, in any split."""
    images = pd.concat(
        pd.DataFrame(
            {
                "group": get_groups(split)[:, 0],
                "content": hashes[name],
                "label": np.array(dataset.classes)[split.labels],
                "image": [_name_image(name, split, index) for index in range(len(split))],
            }
        )
        for name, split in dataset.splits.items()
    )
    images = images[images.groupby("group")[["label", "content"]].transform("nunique").gt(1).all(axis=1)]
    if len(images):
        pair = images[images["group"] == images["group"].iloc[0]].drop_duplicates("label").iloc[:2]
        example = ", ".join(
            f"{image} is {label}" for image, label in zip(pair["image"], pair["label"], strict=True)
        )
        yield _warning(
            "two labels", "photos that nearly repeat another under a different label", len(images), example
        )


def _name_image(split_name: str, split: LabelledImages, index: int) -> str:
    """Return the file or row of an image, else its number."""
    return f"{split_name} {index}" if split.places is None else str(split.places[index])


def _error(check: str, message: str, count: int = 1, example: str = "") -> Finding:
    return Finding("error", check, message, count, example)


_warning = partial(Finding, "warning")
