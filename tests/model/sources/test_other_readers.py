"""Promises beside other readers: what torchvision, pandas, Keras and Hugging Face read, we read as well.

Each layout is read by us and by the others with their defaults. Where both read it the images are equal, or
the table `REVIEWED` says why they are not. The right reading of the generator is not used here.
"""

import importlib.util
import io
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import Dataset
from relearn.model.data.download import torchvision
from relearn.model.data.load import load_dataset
from relearn.model.errors import UserInputError
from relearn.model.home import Home
from tests.model.sources.layout_sketch import SPLIT_NAMES, Layout
from tests.model.sources.layouts import collapse_gray, container_of, flatten, make_layout

SEEDS = range(200)
Labeled = Counter[tuple[str, bytes]]
Reader = Callable[[Layout], Labeled]


def count_images(images: Sequence[np.ndarray] | np.ndarray, labels: Sequence[str]) -> Labeled:
    """Return images, uint8 (channels, height, width), with class names as a multiset, all as RGB."""
    counted: Labeled = Counter()
    for image, label in zip(images, labels, strict=True):
        rgb = np.broadcast_to(image, (3, *image.shape[1:]))
        counted[label, f"{rgb.shape}".encode() + rgb.tobytes()] += 1
    return counted


def read_with_torchvision(layout: Layout) -> Labeled:
    """Read folders with ImageFolder: the root, or each of its split folders."""
    images, labels = [], []
    for root in split_folders(layout):
        folder = torchvision().datasets.ImageFolder(root)
        for image, label in folder:
            images.append(np.moveaxis(np.asarray(image), 2, 0))
            labels.append(folder.classes[label])
    return count_images(images, labels)


def read_with_keras(layout: Layout) -> Labeled:
    """Read folders with image_dataset_from_directory in the size of the first image."""
    import keras

    height, width = image_size(layout)
    images, labels = [], []
    for root in split_folders(layout):
        read = keras.utils.image_dataset_from_directory(
            root, image_size=(height, width), batch_size=None, shuffle=False, verbose=False
        )
        for image, label in read:
            images.append(np.moveaxis(np.asarray(image).round().astype(np.uint8), 2, 0))
            labels.append(read.class_names[int(label)])
    return count_images(images, labels)


def read_with_hugging_face(layout: Layout) -> Labeled:
    """Read folders with imagefolder; its labels are class names or values of metadata."""
    import datasets

    datasets.disable_progress_bars()
    cache = layout.path.parent / "cache"
    read = datasets.load_dataset("imagefolder", data_dir=str(layout.path), cache_dir=str(cache))
    images, labels = [], []
    for split in read.values():
        column = next((name for name in split.column_names if name not in {"image", "text"}), None)
        if column is None:
            raise ValueError("no labels: the files lie at different depths")
        feature = split.features[column]
        for row in split:
            images.append(np.moveaxis(np.asarray(row["image"].convert("RGB")), 2, 0))
            named = isinstance(feature, datasets.ClassLabel)
            labels.append(feature.int2str(row[column]) if named else str(row[column]))
    return count_images(images, labels)


def read_with_pandas(layout: Layout) -> Labeled:
    """Read a table with a header as tutorials do: the label's column is known, all others are pixels."""
    read = pd.read_parquet if layout.path.suffix == ".parquet" else pd.read_csv
    frame = read(layout.path)
    labels = frame.pop(str(layout.label_column))
    values = frame.to_numpy(np.float64)
    if values.max() <= 1 and (values % 1).any():
        values = (values * 255).round()
    if not np.array_equal(values, values.clip(0, 255).round()):
        raise ValueError("not in 0 to 255")
    channels = 1 if values.shape[1] == int(values.shape[1] ** 0.5) ** 2 else 3
    side = int((values.shape[1] / channels) ** 0.5)
    images = values.astype(np.uint8).reshape(-1, channels, side, side)
    return count_images(images, [str(label) for label in labels])


def split_folders(layout: Layout) -> list[Path]:
    """Return the folders that a person passes on: the splits of the layout, or its root."""
    if layout.container == "class folders":
        return [layout.path]
    names = SPLIT_NAMES[layout.choices["split names"]]
    return [layout.path / name for name in names if (layout.path / name).is_dir()] or [layout.path]


def image_size(layout: Layout) -> tuple[int, int]:
    """Return height and width as the generator chose them."""
    _, height, width = layout.choices["size"].split("x")
    return int(height), int(width)


@dataclass(frozen=True)
class Other:
    """Another reader: its package, the containers it reads and how it reads them."""

    package: str
    containers: tuple[str, ...]
    read: Reader


OTHERS = {
    "torchvision": Other("torchvision", ("class folders", "split folders"), read_with_torchvision),
    "pandas": Other("pandas", ("pixel CSV", "pixel Parquet"), read_with_pandas),
    "keras": Other("keras", ("class folders", "split folders"), read_with_keras),
    "hugging face": Other("datasets", ("class folders", "split folders", "metadata"), read_with_hugging_face),
}


def has(choice: str, *values: str) -> Callable[[Layout], bool]:
    """Return a test of a layout: it has this random choice, with one of `values` if any are given."""

    def test(layout: Layout) -> bool:
        value = layout.choices.get(choice)
        return value is not None and (not values or value in values)

    return test


@dataclass(frozen=True)
class Difference:
    """A reviewed difference: the layouts where the others may read something else, and why we are right."""

    where: Callable[[Layout], bool]
    readers: tuple[str, ...]
    reason: str


FOLDER_READERS = ("torchvision", "keras", "hugging face")
REVIEWED: dict[str, Difference] = {
    "suffix": Difference(
        has("suffixes", "missing", "rare", "upper", "several", "wrong"),
        FOLDER_READERS,
        "They choose files by suffix and leave out others without a word; we look at the content.",
    ),
    "format": Difference(
        has("format", "gif", "webp", "tiff", "mixed"),
        FOLDER_READERS,
        "torchvision has no .gif, Keras no .tif or .webp: they leave those files out without a word.",
    ),
    "junk": Difference(
        has("Mac junk"),
        FOLDER_READERS,
        "They take __MACOSX for a class or a split, and fail at the ._ files of a Mac.",
    ),
    "hidden": Difference(
        has("hidden folders"),
        FOLDER_READERS,
        "They read the copies in .ipynb_checkpoints as images of the class, or .git as a class or a split.",
    ),
    "thumbnails": Difference(
        has("thumbnails of a NAS"), FOLDER_READERS, "They read the thumbnails in @eaDir as images."
    ),
    "wrapped": Difference(
        has("wrapped"),
        FOLDER_READERS,
        "They take the one folder around the classes or splits for the only class; we look below it.",
    ),
    "turned": Difference(
        has("turned by EXIF"),
        ("torchvision", "keras", "hugging face"),
        "They do not turn images as EXIF says; viewers, and we, do.",
    ),
    "depth": Difference(
        has("depth", "16 bit", "12 bit by sBIT", "0/1"),
        FOLDER_READERS,
        "They clip 16 bits to 255 (Pillow's conversion to RGB), and leave masks of 0 and 1 almost black.",
    ),
    "JPEG": Difference(
        has("format", "jpeg", "mixed"),
        ("keras",),
        "TensorFlow decodes JPEG with another transform than Pillow: values differ by a few.",
    ),
    "frames": Difference(
        has("several frames"), ("keras",), "It reads each frame of a GIF; we read the first and say so."
    ),
    "stray": Difference(
        has("stray image"), ("hugging face",), "Images beside the folders of the classes have no label."
    ),
    "sub-folders": Difference(
        has("sub-folders", "all", "deep"),
        ("hugging face",),
        "It takes the folder right above a file for its class. We take the outer one, as the others do, and "
        "say which setting chooses the inner one.",
    ),
    "near-equal names": Difference(
        has("classes", "near"), ("hugging face",), "It may merge names; we keep them apart or refuse."
    ),
    "column order": Difference(
        has("column order", "lexicographic", "shuffled"),
        ("pandas",),
        "Columns are taken in their order in the file; we order them by the numbers in their names.",
    ),
    "interleaved": Difference(
        has("channels", "interleaved"),
        ("pandas",),
        "A reshape to (channels, height, width) takes r0, g0, b0 for one channel; we read the names.",
    ),
    "scale": Difference(has("range", "0/1"), ("pandas",), "We read 0 and 1 as black and white."),
    "class names": Difference(
        has("classes", "padded", "odd text", "near"),
        ("pandas",),
        "pandas reads 01 as 1, and None, NA, nan and null as missing; class names are text to us.",
    ),
    "labels as floats": Difference(has("labels as 1.0"), ("pandas",), "The class 1.0 of numbers is named 1."),
    "other columns": Difference(
        lambda layout: any(name in layout.choices for name in ("index column", "id column", "usage column")),
        ("pandas",),
        "An index, identifier or split is no pixel.",
    ),
    "comments": Difference(has("comment lines"), ("pandas",), "It takes the first comment for the header."),
    "missing label": Difference(has("missing label"), ("pandas",), "A row without a label has no class."),
}


def is_readable_by(name: str, layout: Layout) -> bool:
    """Return whether the other reader is meant for this layout: pandas is for tables with a header."""
    if name != "pandas":
        return True
    return layout.label_column is not None and layout.choices.get("header") != "none"


def load_ours(layout: Layout, home: Home) -> Labeled | None:
    """Return our images, or None if we refuse the layout."""
    try:
        with redirect_stderr(io.StringIO()):
            dataset: Dataset = load_dataset(TrainConfig(dataset=layout.dataset), home)
    except UserInputError:
        return None
    images, labels, _ = flatten(dataset)
    return count_images(collapse_gray(images), labels)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves files open
@pytest.mark.parametrize("name", OTHERS)
def test_what_others_read_is_read_equally_or_refused(name: str, tmp_path: Path) -> None:
    """Where we and another reader read a layout, images and labels are equal, or the reason is reviewed."""
    if importlib.util.find_spec(OTHERS[name].package) is None:
        pytest.skip(f"{OTHERS[name].package} is not installed")
    counts: Counter[str] = Counter()
    unreviewed: list[str] = []
    for seed in SEEDS:
        if container_of(seed) not in OTHERS[name].containers:
            continue
        place = tmp_path / str(seed)
        layout = make_layout(seed, place / "data")
        if is_readable_by(name, layout):
            outcome = compare_readers(name, layout, Home(place / "home", place / "datasets"))
            counts[outcome] += 1
            if outcome == "different":
                unreviewed.append(str(layout))
        shutil.rmtree(place)
    sys.stdout.write(f"\n{name}: {dict(counts)}\n")
    assert counts["equal"] > 0, f"nothing was compared: {dict(counts)}"
    assert not unreviewed, f"{len(unreviewed)} of {counts.total()}:\n" + "\n".join(unreviewed[:20])


def test_reviewed_differences_are_documented() -> None:
    """The guide has each reviewed difference with its reason."""
    guide = (Path(__file__).parents[3] / "docs/reference/other-readers.md").read_text()
    rows = [
        f"| {title} | {', '.join(difference.readers)} | {difference.reason} |"
        for title, difference in REVIEWED.items()
    ]
    assert rows == [line for line in guide.splitlines() if line.startswith("| ")][1:]


def compare_readers(name: str, layout: Layout, home: Home) -> str:
    """Return equal, different, refused by us, refused by the other, or the reviewed difference."""
    ours = load_ours(layout, home)
    if ours is None:
        return "refused by us"
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
            theirs = OTHERS[name].read(layout)
    except Exception:
        return "refused by the other"
    if ours == theirs:
        return "equal"
    for title, difference in REVIEWED.items():
        if name in difference.readers and difference.where(layout):
            return title
    return "different"
