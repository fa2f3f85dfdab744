"""Folders of splits above class folders: which they are, and what speaks against it."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from relearn.model.description.class_names import find_similar_names
from relearn.model.description.name_words import find_split, find_word_split, match_splits
from relearn.model.description.source_description import (
    SPLITS,
    AmbiguousDataError,
    DataDescription,
    SplitName,
)
from relearn.model.errors import DataError
from relearn.model.sources.tree import FileTree


def find_split_folders(
    tree: FileTree, names: list[str], choices: dict[str, Any]
) -> dict[SplitName, tuple[str, ...]]:
    top_folders = sorted({name.split("/")[0] for name in names if "/" in name})
    splits = match_splits(top_folders) or _match_alike(top_folders)
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
    if choices.get("layout") == "file_names":
        return splits
    if set(splits["train"]) & nested:
        return _enter_splits(splits, names)
    if all(map(find_split, top_folders)):
        raise AmbiguousDataError(
            f"{tree.location} has images, but no folders, in {', '.join(top_folders)}",
            {
                "the file names start with the class, as cat.1.jpg does": {"layout": "file_names"},
                "these folders are the classes": {"splits": {}},
            },
        )
    return {}  # `train` is a class like the other folders


def _match_alike(folders: Iterable[str]) -> dict[SplitName, tuple[str, ...]]:
    """Match folders to splits whose names differ in the word for it alone, such as seg_train and seg_test."""
    alike = defaultdict[tuple[str, ...], list[str]](list)
    for folder in filter(find_word_split, folders):
        alike[tuple(word for word in re.split(r"[\W_]+", folder) if not find_split(word))].append(folder)
    families = [family for family in alike.values() if len(family) > 1]
    return match_splits(families[0], find_word_split) if len(families) == 1 else {}


def _enter_splits(
    splits: Mapping[SplitName, tuple[str, ...]], names: list[str]
) -> dict[SplitName, tuple[str, ...]]:
    """Enter the folders that alone hold the classes of a split, as in train/train/cat/1.png."""
    classes, entered = set[str](), dict[SplitName, tuple[str, ...]]()
    for split in SPLITS:  # train first, which has the classes
        folders = list[str]()
        for folder in splits.get(split, ()):
            root = find_root(below(folder, names), classes.__contains__)
            folders.append(f"{folder}/{root}" if root else folder)
            if split == "train":
                classes |= {name.split("/")[0] for name in below(folders[-1], names) if "/" in name}
        if folders:
            entered[split] = tuple(folders)
    return entered


def _check_splits_in_classes(tree: FileTree, names: list[str]) -> None:
    """Raise for splits inside of classes, as in cat/train/1.png, which would be merged."""
    inner = {name.split("/")[1] for name in names if name.count("/") >= 2}
    if "train" in match_splits(inner) and all(map(find_split, inner)):
        raise DataError(
            f"{tree.location} has the folders {', '.join(sorted(inner))} inside of its class folders, "
            "accepted: split folders that hold class folders; to merge the splits, write `splits = {}` into "
            "dataset.toml"
        )


def check_test_classes(
    tree: FileTree, description: DataDescription, placed: Mapping[str, tuple[SplitName, str]]
) -> None:
    """Raise for classes of the test or validation images that no training image has."""
    train_classes = {label for split, label in placed.values() if split == "train"}
    unknown = sorted({label for _, label in placed.values()} - train_classes)
    if not unknown:
        return
    subject = f"{tree.location}: no training image has the class {', '.join(unknown[:5])}"
    if similar := find_similar_names(sorted({*train_classes, *unknown})):
        raise DataError(f"{subject}, accepted: one spelling, got {' and '.join(map(ascii, similar[0]))}")
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


def find_root(images: list[str], is_end: Callable[[str], object] = find_split) -> str:
    """Return the folder that holds all class or split folders: a zip often has one folder around them.

    `is_end` is true for a folder that is itself a class or split. Images beside these folders are left out
    later.
    """
    root = ""
    while True:
        nested = [name for name in below(root, images) if name.count("/") >= 2]
        top = {name.split("/")[0] for name in below(root, images) if "/" in name}
        if len(top) != 1 or not nested or is_end(*top):
            return root
        root = f"{root}/{top.pop()}" if root else top.pop()


def below(root: str, names: Iterable[str]) -> list[str]:
    """Return the names below `root`, relative to it."""
    prefix = f"{root}/" if root else ""
    return [name[len(prefix) :] for name in names if name.startswith(prefix)]
