"""What one request may hold: images in the shape of the classifier, up to a number of them."""

import math
from dataclasses import dataclass

from relearn.model.datasets import Style
from relearn.model.errors import InputError
from relearn.serving.guard import Refusal


@dataclass(frozen=True)
class Accepted:
    """What the classifier reads, and how many images one request may hold."""

    shape: tuple[int, int, int]
    style: Style
    max_images: int

    @property
    def forms(self) -> tuple[tuple[int, ...], ...]:
        """The shapes in which one image may be written: flat, its rows where it is grey, its channels."""
        rows = [self.shape[1:]] if self.shape[0] == 1 else []
        return (math.prod(self.shape),), *rows, self.shape

    def __str__(self) -> str:
        return f"one image or several, each of {' or '.join(map(times, self.forms))} numbers"

    def check_count(self, images: int) -> None:
        """Raise `InputError` for no image, `Refusal` 413 for too many."""
        if not images:
            raise InputError(f"images: got none, accepted: 1 to {self.max_images}", "empty_batch")
        if images > self.max_images:
            raise Refusal(413, "batch_too_large", f"images: got {images}, accepted: up to {self.max_images}")

    def check_numbers(self, numbers: int) -> None:
        """Raise `Refusal` 413 for more numbers than `max_images` have."""
        size = math.prod(self.shape)
        images, rest = divmod(numbers, size)
        if not rest:
            self.check_count(images)
        elif images >= self.max_images:
            message = f"images: got {numbers} numbers, accepted: up to {self.max_images} images of {size}"
            raise Refusal(413, "batch_too_large", message)


def times(shape: tuple[int, ...]) -> str:
    """A shape as a reader says it: 28 × 28."""
    return " × ".join(map(str, shape))
