"""The reference: the test images on which every candidate and champion of one name are compared.

Frozen at the first release, kept with the releases, found by its fingerprint, which the ledger names.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

import numpy as np

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.prepared import PreparedDataset
from relearn.model.data.splits import hash_contents
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.files import atomic_folder
from relearn.serving.releases.store import ReleaseStore

METADATA_FILENAME = "metadata.json"


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Images and labels, the names of the classes, and where they came from."""

    test_images: LabelledImages
    classes: tuple[str, ...]
    source: str

    @classmethod
    def from_prepared(cls, prepared: PreparedDataset) -> Self:
        """The test images of `prepared`."""
        return cls(prepared.splits.test, prepared.classes, prepared.uri)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names."""
        digest = hashlib.sha256(json.dumps([self.test_images.images.shape, self.classes]).encode())
        digest.update(np.ascontiguousarray(self.test_images.images).data)
        digest.update(np.ascontiguousarray(self.test_images.labels, dtype=np.int64).data)
        return digest.hexdigest()

    def save(self, releases: ReleaseStore) -> str:
        """Keep it with `releases`, whole or not at all; returns its fingerprint."""
        fingerprint = self.fingerprint
        try:
            ReferenceSet.load(releases, fingerprint)
        except CorruptDataError:  # it is not there, or damaged
            with atomic_folder(releases.reference_folder(fingerprint)) as temporary:
                np.save(temporary / "images.npy", self.test_images.images)
                np.save(temporary / "labels.npy", self.test_images.labels)
                metadata = {"source": self.source, "classes": self.classes}
                (temporary / METADATA_FILENAME).write_text(json.dumps(metadata, ensure_ascii=False))
        return fingerprint

    @classmethod
    def load(cls, releases: ReleaseStore, fingerprint: str) -> Self:
        """Read it back; raises `IntegrityError` where it is not what was frozen."""
        folder = releases.reference_folder(fingerprint)
        try:
            metadata = json.loads((folder / METADATA_FILENAME).read_text())
            images = LabelledImages(np.load(folder / "images.npy"), np.load(folder / "labels.npy"))
            reference = cls(images, tuple(metadata["classes"]), metadata["source"])
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise CorruptDataError(f"the reference images in {folder} cannot be read: {error}") from None
        if reference.fingerprint != fingerprint:
            raise CorruptDataError(f"the reference images in {folder} are not those that were frozen")
        return reference

    def excluding(self, hashes: np.ndarray) -> LabelledImages:
        """The images whose content is not among `seen`, uint64 as `splits.contents` gives it.

        Raises `NotFoundError` where none is left.
        """
        is_unseen = ~np.isin(hash_contents(self.test_images.images), hashes)
        if not is_unseen.any():
            raise NotFoundError(
                "every reference image was learned from: choose others with relearn reference"
            )
        return LabelledImages(self.test_images.images[is_unseen], self.test_images.labels[is_unseen])
