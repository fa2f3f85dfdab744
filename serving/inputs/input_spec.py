"""The accepted input of one request: image shapes and number of images."""

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from relearn.model.errors import UserInputError
from relearn.model.images.resize import ImageStyle, find_blank
from relearn.model.images.scale import BYTE_WHITE
from relearn.model.inference.model_card import ModelCard
from relearn.serving.http.errors import HTTPError

NO_CONTENT: Final = "no_content"  # reason or error code: a drawing without ink


@dataclass(frozen=True)
class InputSpec:
    """The classifier's image shape and style, and the maximum number of images in one request.

    `scale` is the value that is white in numbers: fractions from 0 to 1, else whole numbers. `file_scale` is
    that in image files, None if each declares it.
    """

    shape: tuple[int, int, int]
    style: ImageStyle
    max_images: int
    scale: int = BYTE_WHITE
    file_scale: int | None = None

    @classmethod
    def from_card(cls, card: ModelCard, max_images: int) -> Self:
        """Return the input of the classifier of `card`."""
        return cls(card.shape, card.style, max_images, card.scale, card.file_scale)

    @property
    def accepted_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that one image may have: flat, (height, width) if grayscale, (channels, height, width)."""
        grayscale_shapes = [self.shape[1:]] if self.shape[0] == 1 else []
        return (math.prod(self.shape),), *grayscale_shapes, self.shape

    @property
    def accepted_values(self) -> str:
        """Values that a pixel may have, for messages."""
        return "numbers 0–1" if self.scale == 1 else f"integers 0–{self.scale}"

    def __str__(self) -> str:
        return f"one image or several, each of {' or '.join(map(format_shape, self.accepted_shapes))} numbers"

    def check_image_count(self, image_count: int) -> None:
        """Raise `UserInputError` for no image, `HTTPError` 413 for too many."""
        if not image_count:
            raise UserInputError(f"images: got none, accepted: 1 to {self.max_images}", "empty_batch")
        if image_count > self.max_images:
            raise HTTPError(
                413, "batch_too_large", f"images: got {image_count}, accepted: up to {self.max_images}"
            )

    def check_value_count(self, value_count: int) -> None:
        """Raise `HTTPError` 413 for more numbers than `max_images` images have."""
        values_per_image = math.prod(self.shape)
        image_count, remainder = divmod(value_count, values_per_image)
        if not remainder:
            self.check_image_count(image_count)
        elif image_count >= self.max_images:
            message = (
                f"images: got {value_count} numbers, accepted: up to {self.max_images} images of"
                f" {values_per_image}"
            )
            raise HTTPError(413, "batch_too_large", message)

    def to_batch(self, images: np.ndarray) -> np.ndarray:
        """Reshape one image or several, in any accepted shape, to (n, channels, height, width)."""
        if not len(images):
            self.check_image_count(0)
        if images.shape not in self.accepted_shapes and images.shape[1:] not in self.accepted_shapes:
            raise UserInputError(f"images: got {format_shape(images.shape)}, accepted: {self}", "wrong_shape")
        batch = images.reshape(-1, *self.shape)
        self.check_image_count(len(batch))
        return batch

    def check_content(self, images: np.ndarray) -> None:
        """Raise `UserInputError` for a drawing without ink among `images`, uint8 (n, channels, h, w)."""
        is_blank = find_blank(images, self.style)
        if is_blank.any():
            message = f"images[{is_blank.argmax()}]: got a blank image, accepted: images with content"
            raise UserInputError(message, NO_CONTENT)


def format_shape(shape: tuple[int, ...]) -> str:
    """Format a shape for a message: 28 × 28."""
    return " × ".join(map(str, shape))
