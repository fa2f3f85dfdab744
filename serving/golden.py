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

from relearn.model.errors import IntegrityError

if TYPE_CHECKING:
    from relearn.model.classifier import Classifier

FILE = "golden.safetensors"
COUNT = 32
TOLERANCE = 1e-5  # of a probability; another number of threads or images at a time changes 1e-7


@dataclass(frozen=True, eq=False)
class Golden:
    """`images` uint8 (n, channels, height, width), and `probabilities` float32 (n, classes) for them."""

    images: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, classifier: "Classifier", images: np.ndarray) -> Self:
        """The answers to `COUNT` of `images`, evenly chosen."""
        chosen = np.unique(np.linspace(0, len(images) - 1, COUNT, dtype=int))
        golden = np.ascontiguousarray(images[chosen])
        return cls(golden, classifier.predict(golden))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        try:
            return cls(**safetensors.numpy.load((folder / FILE).read_bytes()))
        except (OSError, SafetensorError, TypeError) as error:
            raise IntegrityError(f"{folder / FILE} cannot be read: {error}") from None

    def save(self, folder: Path) -> None:
        """Write `golden.safetensors` into `folder`."""
        content = safetensors.numpy.save({"images": self.images, "probabilities": self.probabilities})
        (folder / FILE).write_bytes(content)

    def check(self, probabilities: np.ndarray) -> None:
        """Raise `IntegrityError` where these are not the answers of the release, each within 1e-5."""
        same_shape = probabilities.shape == self.probabilities.shape
        off = float(np.abs(probabilities - self.probabilities).max()) if same_shape else math.inf
        if not off <= TOLERANCE:  # NaN is no answer either
            raise IntegrityError(
                f"its answers to {len(self.images)} golden requests are off by up to {off:.2g}, "
                f"accepted: {TOLERANCE:g}"
            )
