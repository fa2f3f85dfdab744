"""The reference: the test images on which every candidate and champion of one name are compared.

Frozen at the first release, kept with the releases, found by its fingerprint, which the ledger names.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

import numpy as np

from relearn.flows.feedback import learned_with
from relearn.flows.truth import Truth, decide_alone
from relearn.model import atomic
from relearn.model.classifier import Card, read_card
from relearn.model.config import TrainConfig
from relearn.model.datasets import LabelledImages
from relearn.model.errors import DataError, IntegrityError, NotFoundError
from relearn.model.home import Home
from relearn.model.prepared import Prepared, prepare
from relearn.model.splits import contents
from relearn.serving.ledger import Entry
from relearn.serving.releases import Releases

CARD = "card.json"


@dataclass(frozen=True, eq=False)
class Reference:
    """Images and labels, the names of the classes, and where they came from."""

    images: LabelledImages
    classes: tuple[str, ...]
    source: str

    @classmethod
    def of(cls, prepared: Prepared) -> Self:
        """The test images of `prepared`."""
        return cls(prepared.splits.test, prepared.classes, prepared.source)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names."""
        content = hashlib.sha256(json.dumps([self.images.images.shape, self.classes]).encode())
        content.update(np.ascontiguousarray(self.images.images).data)
        content.update(np.ascontiguousarray(self.images.labels, dtype=np.int64).data)
        return content.hexdigest()

    def save(self, releases: Releases) -> str:
        """Keep it with `releases`, whole or not at all; returns its fingerprint."""
        fingerprint = self.fingerprint
        try:
            Reference.load(releases, fingerprint)
        except IntegrityError:  # it is not there, or damaged
            with atomic.folder(releases.reference(fingerprint)) as temporary:
                np.save(temporary / "images.npy", self.images.images)
                np.save(temporary / "labels.npy", self.images.labels)
                card = {"source": self.source, "classes": self.classes}
                (temporary / CARD).write_text(json.dumps(card, ensure_ascii=False))
        return fingerprint

    @classmethod
    def load(cls, releases: Releases, fingerprint: str) -> Self:
        """Read it back; raises `IntegrityError` where it is not what was frozen."""
        folder = releases.reference(fingerprint)
        try:
            card = json.loads((folder / CARD).read_text())
            images = LabelledImages(np.load(folder / "images.npy"), np.load(folder / "labels.npy"))
            reference = cls(images, tuple(card["classes"]), card["source"])
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise IntegrityError(f"the reference images in {folder} cannot be read: {error}") from None
        if reference.fingerprint != fingerprint:
            raise IntegrityError(f"the reference images in {folder} are not those that were frozen")
        return reference

    def without(self, seen: np.ndarray) -> LabelledImages:
        """The images whose content is not among `seen`, uint64 as `splits.contents` gives it.

        Raises `NotFoundError` where none is left.
        """
        left = ~np.isin(contents(self.images.images), seen)
        if not left.any():
            raise NotFoundError(
                "every reference image was learned from: choose others with relearn reference"
            )
        return LabelledImages(self.images.images[left], self.images.labels[left])


def own(card: Card, home: Home) -> Reference:
    """The test images of the data that a classifier learned from; the first release freezes them."""
    prepared = prepare(card.config, home, learned_with(home, card))
    if prepared.fingerprint != card.fingerprint:
        raise DataError(
            f"{prepared.source} has changed since this classifier learned from it: got fingerprint "
            f"{prepared.fingerprint[:12]}, accepted: {card.fingerprint[:12]}"
        )
    return Reference.of(prepared)


def fitting(option: str, dataset: str, card: Card, home: Home) -> Prepared:
    """`dataset`, which `option` names, as the classifier of `card` can read it.

    Its images are brought to that shape. Raises `DataError` where it has other classes.
    """
    channels, height, width = card.shape
    fitted = {"size": height} if height == width else {}  # else the images have to have the shape
    prepared = prepare(TrainConfig.read({"dataset": dataset, "channels": channels, **fitted}), home)
    check_same(option, prepared.shape, prepared.classes, card.shape, card.classes)
    return prepared


def check_same(
    subject: str,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
    accepted_shape: tuple[int, ...],
    accepted_classes: tuple[str, ...],
) -> None:
    """Raise `DataError` where the `subject` has images of another shape, or other classes."""
    if shape != accepted_shape:
        got, accepted = (" × ".join(map(str, one)) for one in (shape, accepted_shape))
        raise DataError(f"{subject}: its images are {got}, accepted: {accepted}")
    if classes != accepted_classes:
        got, accepted = (", ".join(one)[:100] for one in (classes, accepted_classes))
        raise DataError(f"{subject}: its classes are {got}, accepted: {accepted}")


def change(home: Home, name: str, dataset: str, reason: str) -> Entry:
    """Freeze the test images of `dataset` as the new reference of `name`; returns the ledger's line.

    They are brought to the champion's shape. Raises `NotFoundError` where nothing is live, `DataError`
    where the classes are others.
    """
    releases = Releases(home.releases(name))
    now = Truth.read(releases)
    if now.live is None:
        raise NotFoundError(f"nothing is live as {name!r}: the first release freezes its own test images")
    card = read_card(releases.folder(now.live.version))
    prepared = fitting("--dataset", dataset, card, home)
    fingerprint = Reference.of(prepared).save(releases)
    return decide_alone(
        home,
        name,
        now,
        action="reference",
        candidate=fingerprint[:12],
        run_id=now.live.run_id,
        reasons=(reason,),
        fingerprints={"data": prepared.fingerprint, "reference": fingerprint},
        live=now.live,
        previous=now.previous,
    )
