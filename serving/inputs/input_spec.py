"""The accepted input of one request: image shapes and number of images."""

import math
from dataclasses import dataclass

from relearn.model.errors import UserInputError
from relearn.model.images.resize import ImageStyle
from relearn.serving.http.errors import HTTPError


@dataclass(frozen=True)
class InputSpec:
    """The classifier's image shape and style, and the maximum number of images in one request.

    `scale` is the number that is white where a request in JSON does not say it; None if the numbers decide.
    """

    shape: tuple[int, int, int]
    style: ImageStyle
    max_images: int
    scale: int | None = None

    @property
    def accepted_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that one image may have: flat, (height, width) if grayscale, (channels, height, width)."""
        grayscale_shapes = [self.shape[1:]] if self.shape[0] == 1 else []
        return (math.prod(self.shape),), *grayscale_shapes, self.shape

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


def format_shape(shape: tuple[int, ...]) -> str:
    """Format a shape for a message: 28 × 28."""
    return " × ".join(map(str, shape))
