"""Images that join a dataset from elsewhere: to learn from, or never to learn from."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict

from relearn.model.datasets import Dataset, LabelledImages
from relearn.model.splits import VALIDATION_SALT, Splits, contents, cut, where


@dataclass(frozen=True, eq=False)
class Additions:
    """Images with the names of their classes, which join a training, and contents that it does without.

    `images` are uint8 (channels, height, width), each in a shape of its own, `labels` one for each of them;
    `held_out` is uint64 as `splits.contents` gives it. `until` is for whoever chose them, to choose the same
    again.
    """

    images: tuple[np.ndarray, ...] = ()
    labels: tuple[str, ...] = ()
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    until: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it, in whichever order it was given; "" where there is nothing."""
        joining = [
            f"{image.shape} {hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()} {label}"
            for image, label in zip(self.images, self.labels, strict=True)
        ]
        return _digest(joining, self.held_out)


class Joined(BaseModel):
    """What came of additions: `images` joined, `refused` did not, `left_out` of the dataset's own had to go.

    Refused are those of a class or shape that the dataset has not, and images of its test part. Left out are
    images that are held out, or stand under another label now. `digest` is the SHA-256 of what all this
    changed, "" for nothing; `until` is that of the additions.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    refused: int
    left_out: int
    digest: str
    until: int


def join(
    dataset: Dataset, splits: Splits, additions: Additions, validation_share: float
) -> tuple[Splits, Joined]:
    """Let `additions` join the training and validation parts of `dataset`, which `splits` has cut.

    An added image falls into one of the two by its content, as all others do, and takes the place of an
    equal one. The test part stays as it is, and what stands in it does not join.
    """
    fitting, known = _fitting(dataset, splits, additions)
    outgoing = np.concatenate([known, additions.held_out])
    kept, gone = list[LabelledImages](), list[np.ndarray]()
    for part in (splits.train, splits.validation):
        own = contents(part.images)
        out = np.isin(own, outgoing)
        kept.append(where(part, ~out))
        gone.append(own[out])
    added = cut(fitting, validation_share, VALIDATION_SALT)
    train, validation = (_both(part, more) for part, more in zip(kept, added, strict=True))
    left_out = np.concatenate(gone)
    told = [
        f"{content} {dataset.classes[label]}" for content, label in zip(known, fitting.labels, strict=True)
    ]
    joined = Joined(
        images=len(fitting),
        refused=len(additions.images) - len(fitting),
        left_out=len(left_out),
        digest=_digest(told, np.setdiff1d(left_out, known)),
        until=additions.until,
    )
    return replace(splits, train=train, validation=validation), joined


def _fitting(dataset: Dataset, splits: Splits, additions: Additions) -> tuple[LabelledImages, np.ndarray]:
    """Those that may join, each content once, and their contents; in the order of these."""
    number = {name: index for index, name in enumerate(dataset.classes)}
    pairs = [
        (image, number[label])
        for image, label in zip(additions.images, additions.labels, strict=True)
        if label in number and image.shape == dataset.shape
    ]
    images = np.array([image for image, _ in pairs], np.uint8).reshape(-1, *dataset.shape)
    labels = np.array([label for _, label in pairs], np.int64)
    known, first = np.unique(contents(images), return_index=True)
    allowed = ~np.isin(known, np.concatenate([contents(splits.test.images), additions.held_out]))
    return where(LabelledImages(images, labels), first[allowed]), known[allowed]


def _both(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    if not len(other):
        return one
    return LabelledImages(
        np.concatenate([one.images, other.images]), np.concatenate([one.labels, other.labels])
    )


def _digest(joining: list[str], held_out: np.ndarray) -> str:
    lines = [*sorted(joining), *(f"- {content}" for content in np.unique(held_out))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""
