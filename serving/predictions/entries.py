"""The schema of the prediction log: the fields of an entry, one line of JSON, in each kind of file."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta


class Entry(msgspec.Struct, gc=False):  # entries have no references to each other
    """Key and time of a predicted image."""

    request_id: Annotated[str, Meta(description="Id of the request, as in its response.")]
    index: Annotated[int, Meta(ge=0, lt=2**32, description="Position of the image in its request.")]
    # Until the year 2242, within pandas' range.
    time: Annotated[float, Meta(ge=0, lt=2**33, description="Seconds since 1970, UTC.")]


class Prediction(Entry):
    """`predictions-*.jsonl`: a prediction and the statistics of its image, which the drift tests compare."""

    worker: Annotated[int, Meta(description="Number of the worker process.")]
    version: Annotated[str, Meta(description="Version of the classifier.")]
    predicted_label: Annotated[str | None, Meta(description="Most probable class; null without an answer.")]
    probabilities: Annotated[dict[str, float], Meta(description="Probability of each class, by its name.")]
    brightness: Annotated[float, Meta(description="Mean of all pixels, 1 is white.")]
    contrast: Annotated[float, Meta(description="Standard deviation of all pixels.")]
    foreground_fraction: Annotated[float, Meta(description="Fraction of pixels of 128 or more.")]
    center_x: Annotated[float, Meta(description="Center of mass from left, 0, to right, 1.")]
    center_y: Annotated[float, Meta(description="Center of mass from top, 0, to bottom, 1.")]
    vertical_gradient_rms: Annotated[float, Meta(description="RMS difference of vertical neighbors.")]


class LoggedImage(Entry):
    """`images-*.jsonl`: a sampled image as the network received it."""

    shape: Annotated[tuple[int, int, int] | None, Meta(description="Channels, height, width.")] = None
    pixels: Annotated[bytes | None, Meta(description="The pixels, uint8 in base64, row by row.")] = None

    def __post_init__(self) -> None:
        """Raise `ValueError` if shape and number of pixels differ."""
        self.decode_image()

    def decode_image(self) -> np.ndarray | None:
        """Return the image, uint8 (channels, height, width); None if there is none."""
        if self.pixels is None or self.shape is None:
            return None
        return np.frombuffer(self.pixels, np.uint8).reshape(self.shape)


class Feedback(LoggedImage, kw_only=True):
    """`feedback-*.jsonl`: a label that a client reported for an image, and the image if it was sent."""

    label: Annotated[str, Meta(description="The reported class.")]
