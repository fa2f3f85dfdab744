"""Image files in class folders, with or without split folders: inspection and reading."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from relearn.model.errors import DataError
from relearn.model.images.decode_many import ImageSource
from relearn.model.sources.description import AmbiguousDataError, DataDescription, SplitName
from relearn.model.sources.image_survey import describe_images, list_images, list_other_suffixes
from relearn.model.sources.raw_dataset import (
    ImageRow,
    RawDataset,
    ReadOptions,
    count_splits,
    find_split,
    match_splits,
    read_image_rows,
)
from relearn.model.sources.tree import FileTree

ACCEPTED = "accepted: a folder for each class with image files in it"


def inspect_folders(
    tree: FileTree, images: list[str], choices: dict[str, Any], sample: int | None = None
) -> DataDescription:
    """Describe class folders; raise AmbiguousDataError if folder names have two readings."""
    root = choices.get("root", find_root(images))
    names = [name for name in below(root, images) if not is_ignored(name, choices.get("ignore", ()))]
    splits = choices["splits"] if "splits" in choices else _find_splits(tree, names, choices)
    description = DataDescription.model_validate(
        {"source": tree.location, "layout": "folder"} | choices | {"root": root, "splits": splits}
    )
    placed, left_out = place_images(description, images)
    if not placed:
        raise DataError(f"{tree.location} has no images, {ACCEPTED}; got {describe_content(tree, images)}")
    _check_test_classes(tree, description, placed)
    left_out.update(f"in {suffix} files" for suffix in list_other_suffixes(tree))
    values: dict[str, Any] = {
        "classes": tuple({label for _, label in placed.values()}),
        "left_out": dict(left_out),
        "counts": count_splits(split for split, _ in placed.values()),
    }
    description = describe_images(
        description.model_copy(update=values), list_sources(tree, placed), choices, sample
    )
    return description.model_copy(update={"notes": (*description.notes, *_note_unread(tree, description))})


def read_folders(tree: FileTree, description: DataDescription, options: ReadOptions) -> RawDataset:
    """Read the images that `description` places in a class."""
    placed, _ = place_images(description, list_images(tree))
    sources = list_sources(tree, placed)
    rows = [ImageRow(source, *place) for source, place in zip(sources, placed.values(), strict=True)]
    return read_image_rows(description, rows, options)


def place_images(
    description: DataDescription, images: Iterable[str]
) -> tuple[dict[str, tuple[SplitName, str]], Counter[str]]:
    """Return split and class of each image, and the reasons for which others have none."""
    split_of = {folder: split for split, folders in description.splits.items() for folder in folders}
    placed, left_out = dict[str, tuple[SplitName, str]](), Counter[str]()
    prefix = f"{description.root}/" if description.root else ""
    for image in images:
        name = image.removeprefix(prefix)
        folders, file_name = name.split("/")[:-1], name.split("/")[-1]
        split: SplitName | None = "train"
        if split_of:
            split = split_of.get(folders[0]) if folders else None
            folders = folders[1:]
        if is_ignored(name, description.ignore):
            left_out["ignored, as the description says"] += 1
        elif split is None:
            left_out["outside the split folders"] += 1
        elif description.layout == "file_names":
            if label := find_label(file_name):
                placed[image] = split, label
            else:
                left_out["without a class in the file name"] += 1
        elif folders and image.startswith(prefix):
            placed[image] = split, folders[0]
        else:
            left_out["outside a class folder"] += 1
    return placed, left_out


def find_label(file_name: str) -> str:
    """Return the class at the start of a file name, before its number: `cat` for cat.12.jpg."""
    match = re.match(r"(.*?[^\W\d_])[\s._-]*\(?\d+\)?(\.\w+)?$", file_name)
    return match[1] if match else ""


def find_root(images: list[str]) -> str:
    """Return the folder that holds all class or split folders: a zip often has one folder around them.

    Images beside these folders are left out later.
    """
    root = ""
    while True:
        nested = [name for name in below(root, images) if name.count("/") >= 2]
        top = {name.split("/")[0] for name in below(root, images) if "/" in name}
        if len(top) != 1 or not nested or find_split(*top):
            return root
        root = f"{root}/{top.pop()}" if root else top.pop()


def below(root: str, names: Iterable[str]) -> list[str]:
    """Return the names below `root`, relative to it."""
    prefix = f"{root}/" if root else ""
    return [name[len(prefix) :] for name in names if name.startswith(prefix)]


def is_ignored(name: str, ignored: Iterable[str]) -> bool:
    """Return True for a path that is listed, or below one that is."""
    return any(name == path.rstrip("/") or name.startswith(f"{path.rstrip('/')}/") for path in ignored)


def list_sources(tree: FileTree, names: Iterable[str]) -> list[ImageSource]:
    """Make the sources of image files."""
    return [ImageSource(f"{tree.location}/{name}", partial(tree.open_file, name)) for name in names]


def describe_content(tree: FileTree, images: list[str]) -> str:
    """Say in numbers what a source holds."""
    suffixes = Counter(name.rpartition(".")[2].lower() if "." in name else "" for name in tree.files)
    kinds = ", ".join(
        f"{count:,} {f'.{suffix} files' if suffix else 'files without suffix'}"
        for suffix, count in suffixes.most_common(5)
    )
    flat = sum("/" not in name for name in images)
    in_folders = f"; {len(images):,} are images, {flat:,} of them in no folder" if images else ""
    return f"{kinds or 'no files'} in {len(tree.folders):,} folders{in_folders}"


def _find_splits(
    tree: FileTree, names: list[str], choices: dict[str, Any]
) -> dict[SplitName, tuple[str, ...]]:
    top_folders = sorted({name.split("/")[0] for name in names if "/" in name})
    splits = match_splits(top_folders)
    nested = {name.split("/")[0] for name in names if name.count("/") >= 2}
    if not splits:
        _check_splits_in_classes(tree, names)
        if top_folders and all(map(find_split, top_folders)) and set(top_folders) <= nested:
            raise AmbiguousDataError(
                f"{tree.location} has no training folder, only {', '.join(top_folders)}",
                {
                    "these are the classes": {"splits": {}},
                    "the folders in them are, all for training": {"splits": {"train": top_folders}},
                },
            )
        return {}
    if set(splits["train"]) & nested or choices.get("layout") == "file_names":
        return splits
    if all(map(find_split, top_folders)):
        raise AmbiguousDataError(
            f"{tree.location} has images, but no folders, in {', '.join(top_folders)}",
            {
                "the file names start with the class, as cat.1.jpg does": {"layout": "file_names"},
                "these folders are the classes": {"splits": {}},
            },
        )
    return {}  # `train` is a class like the other folders


def _check_splits_in_classes(tree: FileTree, names: list[str]) -> None:
    """Raise for splits inside of classes, as in cat/train/1.png, which would be merged."""
    inner = {name.split("/")[1] for name in names if name.count("/") >= 2}
    if "train" in match_splits(inner) and all(map(find_split, inner)):
        raise DataError(
            f"{tree.location} has the folders {', '.join(sorted(inner))} inside of its class folders, "
            "accepted: split folders that hold class folders; to merge the splits, write `splits = {}` into "
            "dataset.toml"
        )


def _check_test_classes(
    tree: FileTree, description: DataDescription, placed: Mapping[str, tuple[SplitName, str]]
) -> None:
    """Raise for classes of the test or validation images that no training image has."""
    train_classes = {label for split, label in placed.values() if split == "train"}
    unknown = sorted({label for _, label in placed.values()} - train_classes)
    if not unknown:
        return
    subject = f"{tree.location}: no training image has the class {', '.join(unknown[:5])}"
    places = {
        (name.split("/")[0], label)
        for name, (_, label) in zip(below(description.root, placed), placed.values(), strict=True)
    }
    folders = sorted({folder for folder, label in places if label in unknown})
    if (
        any(folder in folders and label not in unknown for folder, label in places)
        or description.layout != "folder"
    ):
        raise DataError(f"{subject}, accepted: test images of the classes that are trained")
    everything = sorted(folder for part in description.splits.values() for folder in part)
    raise AmbiguousDataError(
        subject,
        {
            f"the images in {', '.join(folders)} have no labels": {"ignore": folders},
            "they are classes, all images are for training": {"splits": {"train": everything}},
        },
    )


def _note_unread(tree: FileTree, description: DataDescription) -> list[str]:
    """Note system files, and folders beside the classes that hold no file at all."""
    holders = {name.rpartition("/")[0] for name in tree.files}
    filled = holders | {str(parent) for name in holders for parent in PurePosixPath(name).parents}
    depth = 1 + bool(description.splits)
    empty = [name for name in below(description.root, set(tree.folders) - filled) if name.count("/") < depth]
    notes = [f"{tree.junk:,} system or hidden files and folders are not read"] if tree.junk else []
    if empty:
        notes.append(f"{len(empty):,} empty folders are no classes, such as {min(empty)}")
    return notes
