"""Reference set: the test images on which candidates and champions of one model are compared.

It is frozen at the first release and stored with the releases; the ledger records its fingerprint.
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
    """Labeled test images on which all candidates and champions of a model are compared.

    `classes` are their class names, `source` is the name of their dataset.
    """

    test_images: LabelledImages
    classes: tuple[str, ...]
    source: str

    @classmethod
    def from_prepared(cls, prepared: PreparedDataset) -> Self:
        """Return the test images of `prepared` as a reference set."""
        return cls(prepared.splits.test, prepared.classes, prepared.uri)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of images, labels and class names."""
        digest = hashlib.sha256(json.dumps([self.test_images.images.shape, self.classes]).encode())
        digest.update(np.ascontiguousarray(self.test_images.images).data)
        digest.update(np.ascontiguousarray(self.test_images.labels, dtype=np.int64).data)
        return digest.hexdigest()

    def save(self, releases: ReleaseStore) -> str:
        """Store the set in `releases` atomically; return its fingerprint."""
        fingerprint = self.fingerprint
        try:
            ReferenceSet.load(releases, fingerprint)
        except CorruptDataError:  # missing or damaged
            with atomic_folder(releases.reference_folder(fingerprint)) as temporary:
                np.save(temporary / "images.npy", self.test_images.images)
                np.save(temporary / "labels.npy", self.test_images.labels)
                metadata = {"source": self.source, "classes": self.classes}
                (temporary / METADATA_FILENAME).write_text(json.dumps(metadata, ensure_ascii=False))
        return fingerprint

    @classmethod
    def load(cls, releases: ReleaseStore, fingerprint: str) -> Self:
        """Load the set with `fingerprint`; raise `CorruptDataError` if its content differs from it."""
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
        """Return the images whose content hash, as from `hash_contents`, is not in `hashes` (uint64).

        Raises `NotFoundError` if none is left.
        """
        is_unseen = ~np.isin(hash_contents(self.test_images.images), hashes)
        if not is_unseen.any():
            raise NotFoundError(
                "every reference image was used for training: choose others with relearn reference"
            )
        return LabelledImages(self.test_images.images[is_unseen], self.test_images.labels[is_unseen])
