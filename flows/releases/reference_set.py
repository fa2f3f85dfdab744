"""Reference set: the test images on which candidates and champions of one model are compared.

It is frozen at the first release and stored with the releases; the ledger records its fingerprint.
"""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import find_learned, take
from relearn.model.devices import cpu_count
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.files import atomic_folder
from relearn.model.home import Home
from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode import open_image
from relearn.model.images.decode_many import MAX_FILE_BYTES, MAX_PIXELS
from relearn.model.images.formats import HEADER_BYTES, recognize_format
from relearn.model.images.resize import decode_fitted
from relearn.model.inference.model_card import ModelCard
from relearn.model.preparation.originals import read_test_files
from relearn.model.preparation.prepared import PreparedDataset
from relearn.serving.releases.store import ReleaseStore

FORMAT = 2  # of the folder: image files instead of pixels of one shape
METADATA_FILENAME, IMAGES_FILENAME = "metadata.json", "images.zip"
ARRAYS = ("labels", "sources", "groups")


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Labeled test images on which all candidates and champions of a model are compared.

    `files` are image files, as `read_test_files` returns them: each classifier sees them through its own
    preprocessing. `labels` are int64 (n,), `sources` and `groups` uint64 (n, 2) hashes as in
    `LabelledImages`. `classes` are the names of the classes, `source` is the name of the dataset.
    """

    files: Sequence[bytes]
    labels: np.ndarray
    sources: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    source: str

    @classmethod
    def from_prepared(cls, prepared: PreparedDataset, home: Home) -> Self:
        """Return the test images of `prepared`, except those whose source has changed, as a reference set."""
        test, originals = prepared.splits.test, read_test_files(prepared, home)
        is_kept = np.array([original is not None for original in originals], bool)
        arrays = {name: np.array(getattr(test, name))[is_kept] for name in ARRAYS}
        files = [original for original in originals if original is not None]
        return cls(files, **arrays, classes=prepared.classes, source=prepared.uri)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of files, labels, sources and class names."""
        digest = hashlib.sha256(json.dumps([FORMAT, len(self), self.classes]).encode())
        for name in ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).data)
        for file in self.files:
            digest.update(hashlib.sha256(file).digest())
        return digest.hexdigest()

    def save(self, releases: ReleaseStore) -> str:
        """Store the set in `releases` atomically; return its fingerprint."""
        fingerprint = self.fingerprint
        try:
            ReferenceSet.load(releases, fingerprint)
        except CorruptDataError:  # missing or damaged
            with atomic_folder(releases.reference_folder(fingerprint)) as temporary:
                with zipfile.ZipFile(temporary / IMAGES_FILENAME, "w") as archive:
                    for index, file in enumerate(self.files):
                        image_format = recognize_format(file[:HEADER_BYTES])
                        suffix = image_format.name.lower() if image_format else "bin"
                        archive.writestr(f"{index:06d}.{suffix}", file)
                for name in ARRAYS:
                    np.save(temporary / f"{name}.npy", getattr(self, name))
                metadata = {"format": FORMAT, "source": self.source, "classes": self.classes}
                (temporary / METADATA_FILENAME).write_text(json.dumps(metadata, ensure_ascii=False))
        return fingerprint

    @classmethod
    def load(cls, releases: ReleaseStore, fingerprint: str) -> Self:
        """Load the set with `fingerprint`; raise `CorruptDataError` if its content differs from it."""
        folder = releases.reference_folder(fingerprint)
        try:
            metadata = json.loads((folder / METADATA_FILENAME).read_text())
            if (got := metadata.get("format", 1)) != FORMAT:
                raise CorruptDataError(
                    f"{folder} has format {got}, accepted: {FORMAT}; freeze the images again with relearn "
                    "release --reference …"
                )
            with zipfile.ZipFile(folder / IMAGES_FILENAME) as archive:
                files = [archive.read(name) for name in sorted(archive.namelist())]
            arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS}
            reference = cls(files, **arrays, classes=tuple(metadata["classes"]), source=metadata["source"])
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
        ) as error:
            raise CorruptDataError(f"the reference images in {folder} cannot be read: {error}") from None
        if reference.fingerprint != fingerprint:
            raise CorruptDataError(f"the reference images in {folder} are not those that were frozen")
        return reference

    def fit(self, card: ModelCard, allocate: Allocate = allocate_in_memory) -> LabelledImages:
        """Decode all images as a server of the classifier of `card` does."""
        decode = partial(_decode, card=card)
        images = allocate((len(self), *card.shape))
        with ThreadPoolExecutor(cpu_count()) as pool:
            for index, image in enumerate(pool.map(decode, self.files)):
                images[index] = image
        return LabelledImages(images, self.labels, sources=self.sources, groups=self.groups)

    def fit_unseen(
        self, learners: Sequence[tuple[ModelCard, np.ndarray]], allocate: Allocate = allocate_in_memory
    ) -> list[LabelledImages]:
        """Decode for each classifier the images that none of them learned from: the same for all.

        `learners` are card and training hashes of each classifier. Raises `NotFoundError` if no image is
        left.
        """
        fitted = {(card.shape, card.style): card for card, _ in learners}
        images = {key: self.fit(card, allocate) for key, card in fitted.items()}
        all_images = [images[card.shape, card.style] for card, _ in learners]
        is_learned = np.zeros(len(self), bool)
        for seen, (_, hashes) in zip(all_images, learners, strict=True):
            is_learned |= find_learned(seen, hashes)
        if is_learned.all():
            raise NotFoundError(
                "every reference image was used for training: choose others with relearn release --reference"
            )
        if not is_learned.any():
            return all_images
        unseen = {key: take(part, ~is_learned, allocate) for key, part in images.items()}
        return [unseen[card.shape, card.style] for card, _ in learners]


def _decode(file: bytes, card: ModelCard) -> np.ndarray:
    return decode_fitted(open_image(file, MAX_FILE_BYTES, MAX_PIXELS), card.shape, card.style)
