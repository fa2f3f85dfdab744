"""Networks and image side that fit the data, where they are not given."""

from pathlib import Path
from typing import cast

from relearn.model.config import TrainConfig
from relearn.model.data.load import resolve_source
from relearn.model.description.source_description import read_choices
from relearn.model.home import Home
from relearn.model.images.decode_many import MAX_NATIVE_SIDE
from relearn.model.networks.pretrained import SCALES
from relearn.model.sources.inspect import inspect_source
from relearn.model.sources.tree import SourceKind

SMALL_IMAGE_NETWORKS, PHOTO_NETWORKS = ("mlp", "cnn"), ("pretrained",)
SAMPLE_FILES = 500  # opened to tell photos from small images


def fit_to_data(
    config: TrainConfig, networks: tuple[str, ...], home: Home
) -> tuple[TrainConfig, tuple[str, ...]]:
    """Return settings and networks, with those that are not given chosen by the data.

    Photos are image files with a median side of 64 pixels or more. They train `pretrained`, for which they
    get the side of its backbone; other images mlp and cnn. A side in the settings or in dataset.toml is kept.
    """
    side = config.image_size or _find_side(config, home)
    are_photos = side is not None and side >= MAX_NATIVE_SIDE
    chosen = networks or (PHOTO_NETWORKS if are_photos else SMALL_IMAGE_NETWORKS)
    backbone_sides = [SCALES[name].side for name in chosen if name in SCALES]
    if are_photos and backbone_sides and config.image_size is None and not _is_side_chosen(config, home):
        config = config.model_copy(update={"image_size": max(backbone_sides)})
    return config, chosen


def _find_side(config: TrainConfig, home: Home) -> int | None:
    """Return the side to which image files would be resized, at most MAX_NATIVE_SIDE; None without need."""
    kind, _, path = resolve_source(config, home).partition(":")
    if not path:
        return None
    return inspect_source(Path(path), kind=cast(SourceKind, kind), sample=SAMPLE_FILES).image_size


def _is_side_chosen(config: TrainConfig, home: Home) -> bool:
    kind, _, path = resolve_source(config, home).partition(":")
    return kind == "toml" and "image_size" in read_choices(Path(path))
