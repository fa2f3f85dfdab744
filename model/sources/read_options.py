"""Options of a reading that are not in the description of the source."""

from dataclasses import dataclass

from relearn.model.images.allocate import Allocate, allocate_in_memory
from relearn.model.images.decode_many import OnProgress, ignore_progress


@dataclass(frozen=True)
class ReadOptions:
    """Side and channels of the images, by default as in the data, about how many, and where they are kept."""

    image_size: int | None = None
    channels: int | None = None
    limit: int | None = None
    allocate: Allocate = allocate_in_memory
    on_progress: OnProgress = ignore_progress


EVERYTHING = ReadOptions()
