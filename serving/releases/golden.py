"""Golden requests: images with the probabilities that a classifier predicted at its release.

The smoke test and the hot reload predict them again and reject a classifier whose probabilities differ.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from relearn.model.errors import CorruptDataError
from relearn.model.files import read_regular_file
from relearn.model.images.scale import BYTE_WHITE, scale_from_uint8, scale_to_uint8
from relearn.serving.releases.ledger import GOLDEN_FILE

if TYPE_CHECKING:
    from relearn.model.inference.classifier import Classifier

SAMPLE_SIZE = 32
TOLERANCE = 1e-5  # of a probability; another batch size or thread count changes it by 1e-7


@dataclass(frozen=True, eq=False)
class Golden:
    """`images` uint8 (n, channels, height, width) with their `probabilities` float32 (n, classes)."""

    images: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_classifier(cls, classifier: "Classifier", images: np.ndarray) -> Self:
        """Return golden requests: up to `SAMPLE_SIZE` evenly spaced images, with their predictions.

        Pixels are rounded to the nearest that a request can express in the scale of the classifier.
        """
        indices = np.unique(np.linspace(0, len(images) - 1, SAMPLE_SIZE, dtype=int))
        white = classifier.card.scale
        golden_images = scale_to_uint8(scale_from_uint8(images[indices], white), white)
        return cls(golden_images, classifier.predict(golden_images))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `golden.safetensors` of `folder`; raise `CorruptDataError` if it cannot be read."""
        try:
            return cls.parse(read_regular_file(folder / GOLDEN_FILE))
        except OSError as error:
            raise CorruptDataError(f"{folder / GOLDEN_FILE} cannot be read: {error.strerror}") from None

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse the content of a `golden.safetensors`; raise `CorruptDataError` if it is invalid."""
        try:
            return cls(**safetensors.numpy.load(content))
        except (SafetensorError, TypeError) as error:
            raise CorruptDataError(f"{GOLDEN_FILE} cannot be read: {error}") from None

    def save(self, folder: Path) -> None:
        """Write `golden.safetensors` into `folder`."""
        content = safetensors.numpy.save({"images": self.images, "probabilities": self.probabilities})
        (folder / GOLDEN_FILE).write_bytes(content)

    def encode_example(self, file_scale: int | None) -> bytes:
        """Encode the first image as PNG; `file_scale` is the value that is white in files, None for 255."""
        from relearn.model.images.decode import encode_png

        white = min(file_scale or BYTE_WHITE, BYTE_WHITE)
        return encode_png(np.round(self.images[0] * (white / BYTE_WHITE)).astype(np.uint8))

    def check(self, probabilities: np.ndarray) -> None:
        """Raise `CorruptDataError` unless each probability is within 1e-5 of the released one."""
        is_same_shape = probabilities.shape == self.probabilities.shape
        max_difference = (
            float(np.abs(probabilities - self.probabilities).max()) if is_same_shape else math.inf
        )
        if not max_difference <= TOLERANCE:  # NaN fails too
            raise CorruptDataError(
                f"its probabilities for {len(self.images)} golden requests differ by up to "
                f"{max_difference:.2g}, accepted: {TOLERANCE:g}"
            )
