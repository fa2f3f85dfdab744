"""Generator of data sets in the layouts that people have, each with its right reading.

`make_layout(seed, folder)` writes one data set and returns what a careful stranger would read from it. The
generator knows nothing of our reader: its rules are those of the field (torchvision, Keras, Kaggle, MedMNIST,
Hugging Face) and the rules for ranges, splits and left-out images that the reader promises.

All values are chosen so that rounding and the upper byte agree: 16-bit samples are 257 × the 8-bit value.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from relearn.model.data.dataset import Dataset
from relearn.model.errors import DataError
from tests.model.sources.layout_sketch import Draw, Layout, Sketch, Truth
from tests.model.sources.layout_tables import make_image_parquet, make_npz, make_pixel_csv, make_pixel_parquet
from tests.model.sources.layout_trees import draw_listed, draw_metadata, draw_tree, write_archive, write_tree

Outcome = Literal["read", "refused", "wrong", "untold", "crashed"]


@dataclass(frozen=True)
class Verdict:
    """Outcome of reading a layout, with the difference or the message in words."""

    layout: Layout
    outcome: Outcome
    detail: str

    @property
    def good(self) -> bool:
        """True if the reader kept its promise; a refusal always does."""
        return self.outcome in {"read", "refused"}

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}\n    {self.layout}"


def judge(layout: Layout, load: Callable[[str], Dataset]) -> Verdict:
    """Read `layout` with `load` and compare the result with its right reading."""
    try:
        dataset = load(layout.dataset)
    except DataError as error:
        return Verdict(layout, "refused", str(error))
    except Exception as error:
        return Verdict(layout, "crashed", f"{type(error).__name__}: {error}")
    if layout.truth is None:
        return Verdict(layout, "wrong", f"read, instead of refused: {'; '.join(layout.reasons)}")
    difference = compare(dataset, layout.truth)
    if difference is not None:
        return Verdict(layout, "wrong", difference)
    if layout.tell and not dataset.notes:
        return Verdict(layout, "untold", f"no note of: {'; '.join(layout.tell)}")
    return Verdict(layout, "read", "")


def compare(dataset: Dataset, truth: Truth) -> str | None:
    """Return the first difference between `dataset` and `truth` in words; the order is free."""
    images, labels, splits = flatten(dataset)
    if len(labels) != len(truth.labels):
        return f"{len(labels)} images, right: {len(truth.labels)}"
    name = _class_namer(truth)
    wanted_classes = {name(label) for label in truth.labels}
    classes = [name(label) for label in dataset.classes]
    if sorted(classes) != sorted(wanted_classes):
        return f"classes {sorted(classes)}, right: {sorted(wanted_classes)}"
    got_images, wanted_images = (collapse_gray(array) for array in (images, truth.images))
    if got_images.shape != wanted_images.shape:
        return f"images of shape {images.shape[1:]}, right: {truth.images.shape[1:]}"
    got = [(split, name(label)) for split, label in zip(splits, labels, strict=True)]
    wanted = [(split, name(label)) for split, label in zip(truth.splits, truth.labels, strict=True)]
    if Counter(split for split, _ in got) != Counter(split for split, _ in wanted):
        return f"splits {dict(Counter(splits))}, right: {dict(Counter(truth.splits))}"
    got_pixels = Counter(image.tobytes() for image in got_images)
    wanted_pixels = Counter(image.tobytes() for image in wanted_images)
    if got_pixels != wanted_pixels:
        return f"pixels differ in {(got_pixels - wanted_pixels).total()} of {len(labels)} images"
    got_all = Counter((*key, image.tobytes()) for key, image in zip(got, got_images, strict=True))
    wanted_all = Counter((*key, image.tobytes()) for key, image in zip(wanted, wanted_images, strict=True))
    if got_all != wanted_all:
        return f"label or split differs in {(got_all - wanted_all).total()} of {len(labels)} images"
    return None


def flatten(dataset: Dataset) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the images, class names and splits of all parts of `dataset`."""
    parts = {
        "train": dataset.train,
        "validation": getattr(dataset, "validation", None),
        "test": dataset.test,
    }
    images, labels, splits = [], [], []
    for split, part in parts.items():
        if part is not None:
            images.append(part.images)
            labels += [dataset.classes[label] for label in part.labels]
            splits += [split] * len(part)
    return np.concatenate(images), labels, splits


def collapse_gray(images: np.ndarray) -> np.ndarray:
    """Return gray images that are stored as RGB with one channel; others as they are."""
    if images.shape[1] == 3 and (images == images[:, :1]).all():
        return images[:, :1]
    return images


def _class_namer(truth: Truth) -> Callable[[str], str]:
    """Return the function that maps all right names of a class to one.

    Surrounding spaces and Unicode's composed or decomposed form count only where they tell classes apart.
    """

    def tidy(name: str) -> str:
        name = truth.aliases.get(name, name)
        if truth.numeric:
            try:
                return f"{float(name):g}"
            except ValueError:
                return name
        return unicodedata.normalize("NFC", name).strip()

    names = set(truth.labels)
    if len({tidy(name) for name in names}) == len(names):
        return tidy
    return lambda name: name


def _make_class_folders(sketch: Sketch) -> None:
    write_tree(sketch, draw_tree(sketch, split=False))


def _make_split_folders(sketch: Sketch) -> None:
    write_tree(sketch, draw_tree(sketch, split=True))


def _make_listed(sketch: Sketch) -> None:
    files, name = draw_listed(sketch)
    write_tree(sketch, files)
    if sketch.draw.pick("source", {"the list": 3, "the folder": 1}) == "the list":
        sketch.path /= f"dataset/{name}" if "wrapped" in sketch.draw.choices else name
        sketch.dataset = f"{sketch.draw.one_of(('csv:', ''))}{sketch.path}"


def _make_metadata(sketch: Sketch) -> None:
    write_tree(sketch, draw_metadata(sketch))


def _make_archive(kind: str) -> Callable[[Sketch], None]:
    def make(sketch: Sketch) -> None:
        inside = sketch.draw.pick("inside", {"classes": 2, "splits": 2, "list": 1, "metadata": 0.7})
        if inside == "list":
            files, _ = draw_listed(sketch)
        elif inside == "metadata":
            files = draw_metadata(sketch)
        else:
            files = draw_tree(sketch, split=inside == "splits")
        write_archive(sketch, files, kind)

    return make


CONTAINERS: dict[str, tuple[float, Callable[[Sketch], None]]] = {
    "class folders": (18, _make_class_folders),
    "split folders": (16, _make_split_folders),
    "list of files": (12, _make_listed),
    "metadata": (8, _make_metadata),
    "pixel CSV": (20, make_pixel_csv),
    "pixel Parquet": (8, make_pixel_parquet),
    "image Parquet": (8, make_image_parquet),
    "npz": (14, make_npz),
    "zip": (8, _make_archive("zip")),
    "tar.gz": (4, _make_archive("tar.gz")),
}


def container_of(seed: int) -> str:
    """Return the container of the layout of `seed` without writing it."""
    return _draw_container(Draw(seed))


def make_layout(seed: int, folder: Path) -> Layout:
    """Write the data set of `seed` below `folder` and return it with its right reading."""
    draw = Draw(seed)
    folder.mkdir(parents=True, exist_ok=True)
    container = _draw_container(draw)
    sketch = Sketch(draw, folder)
    CONTAINERS[container][1](sketch)
    return sketch.finish(seed, container)


def _draw_container(draw: Draw) -> str:
    return draw.pick("container", {name: weight for name, (weight, _) in CONTAINERS.items()})
