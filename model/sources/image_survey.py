"""Survey of image files before they are read: formats, sizes, damage, and the value that is white."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

from relearn.model.description.source_description import AmbiguousDataError, DataDescription
from relearn.model.errors import DataError, UserInputError
from relearn.model.images.decode import get_upright_size, read_header
from relearn.model.images.decode_many import MAX_PIXELS, ImageSource, choose_side
from relearn.model.images.formats import HEADER_BYTES, IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, recognize_format
from relearn.model.images.scale import BYTE_WHITE, WORD_WHITE, next_bit_depth_white
from relearn.model.sources.tree import FileTree

TIFF_BITS_PER_SAMPLE = 258
PNG_DEPTH_OFFSET = 24
MASK_COLORS = 3  # object, background, border


@dataclass
class ImageSurvey:
    """Summary of the headers of image files.

    `deep` names the gray images of 16 bits: the bits that their sBIT declares, or none. `deep_color` names
    the color images of 16 bits a channel, of which Pillow reads the upper 8.
    """

    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    deep: dict[str, int | None] = field(default_factory=dict)
    deep_color: set[str] = field(default_factory=set)
    tiff_bits: Counter[int] = field(default_factory=Counter)
    animated: list[str] = field(default_factory=list)


def describe_images(
    description: DataDescription,
    sources: Sequence[ImageSource],
    choices: dict[str, Any],
    sample: int | None = None,
) -> DataDescription:
    """Add scale, size and remarks to a description, from the headers of its image files.

    A first look reads about `sample` of them, evenly spread.
    """
    total, sources = len(sources), sources[:: max(1, len(sources) // (sample or len(sources) or 1))]
    survey = survey_images(sources)
    formats = ", ".join(f"{count:,} {name}" for name, count in survey.formats.most_common())
    ends = dict.fromkeys([min(survey.sizes, default=(0, 0)), max(survey.sizes, default=(0, 0))])
    notes = [f"Files: {formats}; {' to '.join(f'{width} × {height}' for width, height in ends)} pixels"]
    if len(sources) < total:
        notes.insert(0, f"A first look at {len(sources):,} of {total:,} files")
    cautions = list(description.cautions)
    if survey.animated:
        cautions.append(
            f"only the first frame is read of {len(survey.animated):,} files that have several, such as "
            f"{survey.animated[0]}"
        )
    subject = str(description.source)
    values = {
        "scale": choices["scale"] if "scale" in choices else choose_image_scale(subject, sources, survey),
        "image_size": choices["image_size"] if "image_size" in choices else choose_side(survey.sizes),
        "notes": (*description.notes, *notes),
        "cautions": tuple(cautions),
    }
    return description.model_copy(update=values)


def survey_images(sources: Iterable[ImageSource]) -> ImageSurvey:
    """Read the header of every image; damaged ones are found by the reading."""
    survey = ImageSurvey()
    for source in sources:
        with suppress(UserInputError, OSError, ValueError, EOFError, SyntaxError), source.open() as file:
            image = read_header(file, MAX_PIXELS)
            _add_depth(survey, source, image)
            survey.formats[image.format or ""] += 1
            survey.sizes[get_upright_size(image)] += 1
            if getattr(image, "n_frames", 1) > 1:
                survey.animated.append(source.name)
    return survey


def choose_image_scale(subject: str, sources: Sequence[ImageSource], survey: ImageSurvey) -> int | None:
    """Return 1 if all images hold only 0 and 1, else None: white is as the files declare.

    Images of 16 bits that use no more than half of them raise AmbiguousDataError, as the bits in use may be
    fewer than those declared.
    """
    if _stay_below(1, sources):
        return 1
    deep_color = [source for source in sources if source.name in survey.deep_color]
    if deep_color and all(
        np.asarray(image.convert("RGB")).max() <= BYTE_WHITE // 2 for image in _load(deep_color)
    ):
        raise DataError(
            f"{subject}: the color images have 16 bits a channel and use less than half of them, accepted: 8 "
            "bits a channel"
        )
    deep = [source for source in sources if source.name in survey.deep]
    if not deep or not _stay_below(WORD_WHITE // 2, deep):
        return None
    if len(survey.tiff_bits) == 1 and survey.tiff_bits.total() == len(deep):
        return int(2 ** next(iter(survey.tiff_bits)) - 1)
    maximum = max(int(values.max()) for values in _raw_values(deep))
    declared = {bits for bits in survey.deep.values() if bits}
    if declared and maximum > 2 ** max(declared) - 1:
        return None  # a PNG's significant bits are the upper ones
    white = 2 ** max(declared) - 1 if declared else next_bit_depth_white(maximum)
    raise AmbiguousDataError(
        f"{subject}: the images have 16 bits a pixel, but no value above {maximum}",
        {
            f"{white} is white, the images hold {white.bit_length()} bits": {"scale": white},
            f"{WORD_WHITE} is white, the images are dark": {"scale": WORD_WHITE},
        },
    )


def has_few_colors(source: ImageSource) -> bool:
    """Return True for an image of at most MASK_COLORS colors."""
    return any(image.convert("RGB").getcolors(MASK_COLORS) for image in _load([source]))


def list_images(tree: FileTree) -> list[str]:
    """List the image files of `tree`: by suffix, which damaged ones have too, else by content."""
    images = []
    for name in tree.files:
        if _get_suffix(name) not in IMAGE_SUFFIXES:
            with tree.open_file(name) as file:
                head = file.read(HEADER_BYTES)
            if recognize_format(head) is None:
                continue
        images.append(name)
    return images


def list_other_suffixes(tree: FileTree) -> list[str]:
    """List the suffixes of the images in formats that are not read, one for each image."""
    return [suffix for suffix in map(_get_suffix, tree.files) if suffix in OTHER_IMAGE_SUFFIXES]


def _get_suffix(name: str) -> str:
    """Return the suffix in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  # a path object takes ten times as long


def _add_depth(survey: ImageSurvey, source: ImageSource, image: ImageFile) -> None:
    """Record an image of more than 8 bits a channel."""
    is_gray = image.mode.startswith("I")
    if image.format == "TIFF" and is_gray:
        survey.deep[source.name] = None
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (16,))[0]
        if bits < 16:
            survey.tiff_bits[bits] += 1
    elif image.format == "PNG":
        with source.open() as file:
            head = file.read(4096)
        position = head.find(b"sBIT")
        if is_gray:
            survey.deep[source.name] = head[position + 4] if position > 0 else None
        elif head[PNG_DEPTH_OFFSET] == 16:
            survey.deep_color.add(source.name)


def _stay_below(limit: int, sources: Iterable[ImageSource]) -> bool:
    """Return True if no image has a value above `limit`; stops at the first that has."""
    return all(values.max() <= limit for values in _raw_values(sources))


def _raw_values(sources: Iterable[ImageSource]) -> Iterator[np.ndarray]:
    """Yield the stored values of every readable image."""
    for image in _load(sources):
        is_bare = image.mode in ("L", "RGB") or image.mode.startswith("I")
        # A palette, a mask or transparency declares its colors.
        yield np.asarray(image) if is_bare else np.array([WORD_WHITE])


def _load(sources: Iterable[ImageSource]) -> Iterator[ImageFile]:
    """Decode every readable image; a parser raises any error, and the reading reports the damage."""
    for source in sources:
        with suppress(Exception):
            with source.open() as file:
                image = read_header(file, MAX_PIXELS)
                image.load()
            yield image
