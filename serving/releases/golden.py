"""Golden requests: images with the answers that a classifier gave when it was released.

Whoever loads or starts it later asks them again, and trusts nothing that answers otherwise.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from relearn.model.errors import CorruptDataError

if TYPE_CHECKING:
    from relearn.model.inference.classifier import Classifier

GOLDEN_FILE = "golden.safetensors"
SAMPLE_SIZE = 32
TOLERANCE = 1e-5  # of a probability; another number of threads or images at a time changes 1e-7


@dataclass(frozen=True, eq=False)
class Golden:
    """`images` uint8 (n, channels, height, width), and `probabilities` float32 (n, classes) for them."""

    images: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_classifier(cls, classifier: "Classifier", images: np.ndarray) -> Self:
        """The answers to `COUNT` of `images`, evenly chosen."""
        indices = np.unique(np.linspace(0, len(images) - 1, SAMPLE_SIZE, dtype=int))
        golden_images = np.ascontiguousarray(images[indices])
        return cls(golden_images, classifier.predict(golden_images))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        try:
            return cls(**safetensors.numpy.load((folder / GOLDEN_FILE).read_bytes()))
        except (OSError, SafetensorError, TypeError) as error:
            raise CorruptDataError(f"{folder / GOLDEN_FILE} cannot be read: {error}") from None

    def save(self, folder: Path) -> None:
        """Write `golden.safetensors` into `folder`."""
        content = safetensors.numpy.save({"images": self.images, "probabilities": self.probabilities})
        (folder / GOLDEN_FILE).write_bytes(content)

    def check(self, probabilities: np.ndarray) -> None:
        """Raise `IntegrityError` where these are not the answers of the release, each within 1e-5."""
        is_same_shape = probabilities.shape == self.probabilities.shape
        max_difference = (
            float(np.abs(probabilities - self.probabilities).max()) if is_same_shape else math.inf
        )
        if not max_difference <= TOLERANCE:  # NaN is no answer either
            raise CorruptDataError(
                f"its answers to {len(self.images)} golden requests are off by up to {max_difference:.2g}, "
                f"accepted: {TOLERANCE:g}"
            )
