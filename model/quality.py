"""What is wrong, or only strange, with the data: asked before any training."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from relearn.model.datasets import Dataset, LabelledImages
from relearn.model.splits import Splits, contents

UNEVEN, IMBALANCED = 1.5, 3.0  # images of the largest class for one of the smallest


@dataclass(frozen=True)
class Finding:
    """One problem: `error` forbids training, `warning` does not. `example` is the first place it shows."""

    level: Literal["error", "warning"]
    check: str
    message: str
    count: int
    example: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.count}; {self.example})" if self.example else self.message


def inspect(dataset: Dataset, splits: Splits) -> list[Finding]:
    """Every finding, errors first; what depends on sound labels is asked only where they are sound."""
    findings = list(_form(dataset))
    if not findings:
        findings = [*_splits(dataset, splits), *_classes(dataset), *_content(dataset)]
    findings += [Finding("warning", "loading", note, 1) for note in dataset.notes]
    return sorted(findings, key=lambda finding: finding.level)


def table(findings: list[Finding]) -> pd.DataFrame:
    """One row for each finding."""
    return pd.DataFrame(map(asdict, findings), columns=["level", "check", "message", "count", "example"])


def balance(counts: np.ndarray) -> tuple[float, str]:
    """Images of the largest class for one of the smallest, and what to call that."""
    ratio = float(counts.max() / counts.min()) if counts.min() else float("inf")
    verdict = "balanced" if ratio < UNEVEN else "uneven" if ratio < IMBALANCED else "imbalanced"
    return ratio, verdict


def _parts(dataset: Dataset) -> dict[str, LabelledImages]:
    return {"train": dataset.train} | ({"test": dataset.test} if dataset.test is not None else {})


def _form(dataset: Dataset) -> Iterator[Finding]:
    wanted, classes = dataset.train.images.shape[1:], len(dataset.classes)
    for name, part in _parts(dataset).items():
        images, labels = part.images, part.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            got = f"{images.dtype} {images.shape}"
            yield _error("images", f"{name} images are {got}, accepted: uint8 (n, c, h, w)")
        elif images.shape[1:] != wanted:
            yield _error("shape", f"{name} images are {images.shape[1:]}, those of train {wanted}")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            got = f"{labels.dtype} {labels.shape}"
            yield _error("labels", f"{name} labels are {got}, accepted: int64 ({len(images)},)")
            continue
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        for first in outside[:1]:
            message, example = f"{name} has labels outside 0 to {classes - 1}", f"image {first} has label"
            yield _error("label range", message, len(outside), f"{example} {labels[first]}")


def _splits(dataset: Dataset, splits: Splits) -> Iterator[Finding]:
    for name in ("train", "validation", "test"):
        labels = getattr(splits, name).labels
        absent = np.flatnonzero(np.bincount(labels, minlength=len(dataset.classes)) == 0)
        if not len(labels):
            message = f"no image falls into {name}, more images or a larger share are needed"
            yield _error("empty split", message)
        elif len(absent):
            message, example = f"classes without an image in {name}", dataset.classes[absent[0]]
            yield _warning("missing class", message, len(absent), example)


def _classes(dataset: Dataset) -> Iterator[Finding]:
    labels = np.concatenate([part.labels for part in _parts(dataset).values()])
    counts = pd.Series(np.bincount(labels, minlength=len(dataset.classes)), dataset.classes)
    present = counts[counts > 0]
    if len(present) < 2:
        names = ", ".join(present.index) or "none"
        yield _error("classes", f"at least two classes need images, got {len(present)}: {names}")
        return
    ratio, verdict = balance(present.to_numpy())
    if verdict == "imbalanced":
        message = f"the largest class has {ratio:.1f} times the images of the smallest"
        example = ", ".join(
            f"{name}: {present[name]}" for name in map(str, (present.idxmax(), present.idxmin()))
        )
        yield _warning("imbalance", message, int(present.max()), example)


def _content(dataset: Dataset) -> Iterator[Finding]:
    known = {name: contents(part.images) for name, part in _parts(dataset).items()}
    for name, part in _parts(dataset).items():
        yield from _constant(name, part)
        yield from _repeated(name, part, known[name], dataset.classes)
    if "test" in known:
        yield from _leak(known["train"], known["test"])


def _constant(name: str, part: LabelledImages) -> Iterator[Finding]:
    flat = part.images.reshape(len(part), -1)
    constant = np.flatnonzero((flat == flat[:, :1]).all(axis=1))
    for first in constant[:1]:
        example = f"image {first}: all {flat[first, 0]}"
        yield _warning("constant image", f"{name} images of a single value", len(constant), example)


def _repeated(
    name: str, part: LabelledImages, known: np.ndarray, classes: tuple[str, ...]
) -> Iterator[Finding]:
    """Images that stand more than once in a part, and among them those under two labels."""
    order = np.argsort(known, kind="stable")
    pairs = np.stack([order[:-1], order[1:]], 1)[known[order[:-1]] == known[order[1:]]]
    conflicting = pairs[part.labels[pairs[:, 0]] != part.labels[pairs[:, 1]]]
    for one, other in pairs[:1]:
        example = f"images {one} and {other}"
        yield _warning("duplicate", f"{name} images that repeat another", len(pairs), example)
    for pair in conflicting[:1]:
        message = f"{name} images that stand under two labels"
        example = ", ".join(f"image {image} is {classes[part.labels[image]]}" for image in pair)
        yield _warning("two labels", message, len(conflicting), example)


def _leak(train: np.ndarray, test: np.ndarray) -> Iterator[Finding]:
    leaked = np.flatnonzero(np.isin(test, train))
    if len(leaked) == len(test):
        yield _error("leak", "every test image is a training image, a score would mean nothing", len(leaked))
    elif len(leaked):
        message = f"test images that are training images ({len(leaked) / len(test):.2%})"
        example = f"test {leaked[0]} is train {np.flatnonzero(train == test[leaked[0]])[0]}"
        yield _warning("leak", message, len(leaked), example)


def _error(check: str, message: str, count: int = 1, example: str = "") -> Finding:
    return Finding("error", check, message, count, example)


_warning = partial(Finding, "warning")
