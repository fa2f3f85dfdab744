"""Image files in class folders: inspection and reading."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from relearn.model.description.name_words import (
    HOLDER_WORD,
    IMAGE_FOLDER,
    find_label,
    find_masks,
    find_split,
    split_words,
)
from relearn.model.description.raw_dataset import ImageRow, count_splits
from relearn.model.description.source_description import (
    BELOW_SOURCE,
    AmbiguousDataError,
    DataDescription,
    SplitName,
)
from relearn.model.errors import DataError
from relearn.model.images.decode_many import ImageSource
from relearn.model.sources.image_survey import (
    describe_images,
    has_few_colors,
    list_other_suffixes,
)
from relearn.model.sources.split_folders import below, check_test_classes, find_root, find_split_folders
from relearn.model.sources.tree import FileTree

ACCEPTED = "accepted: a folder for each class with image files in it"
LIST_SUFFIXES = (".txt", ".json", ".mat", ".xml", ".yaml")
PAIR_SAMPLE = 20  # pairs of images of one name that are opened


def inspect_folders(
    tree: FileTree, images: list[str], choices: dict[str, Any], sample: int | None = None
) -> DataDescription:
    """Describe class folders; raise AmbiguousDataError if folder names have two readings."""
    masks = find_masks(images)
    photos = [name for name in images if name not in masks]
    root = choices.get("root", find_root(photos))
    names = [name for name in below(root, photos) if not is_ignored(name, choices.get("ignore", ()))]
    splits = choices["splits"] if "splits" in choices else find_split_folders(tree, names, choices)
    description = DataDescription.model_validate(
        {"source": tree.location, "layout": "folder"} | choices | {"root": root, "splits": splits}
    )
    placed, left_out = place_images(description, images)
    if not placed:
        raise DataError(f"{tree.location} has no images, {ACCEPTED}; got {describe_content(tree, images)}")
    notes, cautions = _review_levels(tree, description, placed, choices)
    check_test_classes(tree, description, placed)
    left_out.update(f"in {suffix} files" for suffix in list_other_suffixes(tree))
    values: dict[str, Any] = {
        "classes": tuple({label for _, label in placed.values()}),
        "left_out": dict(left_out),
        "counts": count_splits(split for split, _ in placed.values()),
    }
    level = choices.get("group_level")
    if level and not any(name.count("/") >= level for name in placed):
        raise DataError(
            f"group_level: got {level}, but no image lies in so many folders, accepted: 1 to "
            f"{max((name.count('/') for name in placed), default=1)}"
        )
    sources = list_sources(tree, placed)
    description = describe_images(description.model_copy(update=values), sources, choices, sample)
    cautions += _warn_of_masks(sources)
    lists = [
        name
        for name in tree.files
        if name.endswith(LIST_SUFFIXES) and any(map(find_split, split_words(name)))
    ]
    if lists:
        cautions.append(f"{', '.join(lists[:5])} may list the splits, and are not read")
    update = {
        "notes": (*description.notes, *notes, *_note_unread(tree, description)),
        "cautions": (*description.cautions, *cautions),
    }
    return description.model_copy(update=update)


def list_folder_rows(tree: FileTree, description: DataDescription, images: Iterable[str]) -> list[ImageRow]:
    """List the images that `description` places in a class."""
    placed, _ = place_images(description, images)
    level = description.group_level
    groups = [name.split("/")[-1 - level] if level and name.count("/") >= level else "" for name in placed]
    rows = zip(list_sources(tree, placed), placed.values(), groups, strict=True)
    return [ImageRow(source, *place, group) for source, place, group in rows]


def place_images(
    description: DataDescription, images: Iterable[str]
) -> tuple[dict[str, tuple[SplitName, str]], Counter[str]]:
    """Return split and class of each image, and the reasons for which others have none."""
    split_of = {folder: split for split, folders in description.splits.items() for folder in folders}
    placed, left_out = dict[str, tuple[SplitName, str]](), Counter[str]()
    prefix = f"{description.root}/" if description.root else ""
    images, level = list(images), description.class_level
    masks = find_masks(images)
    for image in images:
        name = image.removeprefix(prefix)
        split: SplitName | None = "train"
        if split_of:
            holder = next((folder for folder in split_of if name.startswith(f"{folder}/")), "")
            split, name = split_of.get(holder), name.removeprefix(f"{holder}/")
        *folders, file_name = name.split("/")
        if is_ignored(image.removeprefix(prefix), description.ignore):
            left_out["ignored, as the description says"] += 1
        elif image in masks:
            left_out["masks of other images"] += 1
        elif split is None:
            left_out["outside the split folders"] += 1
        elif description.layout == "file_names" and image.startswith(prefix):
            if label := find_label(file_name):
                placed[image] = split, label
            else:
                left_out["without a class in the file name"] += 1
        elif len(folders) >= level and image.startswith(prefix):
            placed[image] = split, folders[level - 1]
        else:
            left_out["outside a class folder"] += 1
    return placed, left_out


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


def _review_levels(
    tree: FileTree, description: DataDescription, placed: Iterable[str], choices: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Return notes and warnings on folders inside of class folders, which may be the classes themselves.

    Raises AmbiguousDataError if both readings are likely, or for class folders that are named after parts.
    """
    inner = _count_inner_folders(description, placed)
    notes = _note_levels(inner, description.class_level)
    if "layout" in choices or "class_level" in choices:
        return notes, []
    every = [set(folders) for folders in inner.values()]
    is_deep = len(every) > 1 and not any("" in folders for folders in every)
    common = sorted(set.intersection(*every)) if is_deep else []
    are_named = is_deep and sum(len(_bare_words(folders)) > 1 for folders in every) > 1
    are_holders = len(_bare_words(inner)) == 1 and all(map(HOLDER_WORD.search, inner))
    holders = [name for name in sorted(inner) if IMAGE_FOLDER.fullmatch(name)]
    labels = Counter(find_label(name.rpartition("/")[2]) for name in placed)
    subject = (
        f"{tree.location} has the folders {', '.join(sorted(inner)[:5])}, "
        f"{'each of which may hold images of all classes' if are_holders else 'with other folders in each'}"
    )
    readings: dict[str, dict[str, Any]] = {"these are the classes": {"layout": "folder"}}
    if not are_holders and (len(common) > 1 or not are_named):
        return ([], notes) if len(common) > 1 else (notes, [])
    if len(common) > 1 or are_named:
        readings[f"the folders in them are, such as {min(every[0])}"] = {"class_level": 2}
    elif len(labels) > 1 and min(labels.values()) > 1 and not labels[""]:
        root = f"{description.root}/{holders[0]}".strip("/") if len(inner) > len(holders) == 1 else ""
        choice = {"layout": "file_names"} | ({"root": root} if root else {})
        readings["the file names start with the class, as cat.1.jpg does"] = choice
    elif len(inner) == 1:
        return notes, []  # too few classes
    raise AmbiguousDataError(subject, readings)


def _count_inner_folders(description: DataDescription, placed: Iterable[str]) -> dict[str, Counter[str]]:
    """Count the images of each class folder by the folder inside of it, "" for none."""
    level, inner = description.class_level, defaultdict[str, Counter[str]](Counter)
    for split_folder in [folder for folders in description.splits.values() for folder in folders] or [""]:
        for name in below(split_folder, below(description.root, placed)):
            *folders, _ = name.split("/")
            inner["/".join(folders[:level])]["/".join(folders[level : level + 1])] += 1
    return inner


def _note_levels(inner: Mapping[str, Counter[str]], level: int) -> list[str]:
    """Note how many images lie in folders inside of class folders, and classes of several folders."""
    nested = sorted((name, folder) for name, folders in inner.items() for folder in folders if folder)
    parents = Counter(name.rpartition("/")[2] for name in inner)
    joined = sorted(name for name, count in parents.items() if count > 1)
    notes = []
    if nested:
        count = sum(inner[name][folder] for name, folder in nested)
        notes.append(
            f"{count:,} images lie in {len(nested):,} folders inside of class folders, such as "
            f"{'/'.join(nested[0])}, and belong to the class around them; if the inner folders are the "
            f"classes, write `class_level = {level + 1}` into {BELOW_SOURCE}"
        )
    if joined:
        notes.append(f"{len(joined):,} classes have several folders of one name, such as {joined[0]}")
    return notes


def _bare_words(names: Iterable[str]) -> set[str]:
    """Return the letters of names without numbers and the words for parts."""
    return {re.sub(r"[\W\d_]", "", HOLDER_WORD.sub("", name)) for name in names}


def _warn_of_masks(sources: Iterable[ImageSource]) -> list[str]:
    """Return a warning of images of few colors that lie beside another image of the same name."""
    by_stem = defaultdict[str, list[ImageSource]](list)
    for source in sources:
        by_stem[os.path.splitext(source.name)[0]].append(source)  # noqa: PTH122  # fast
    pairs = [group for group in by_stem.values() if len(group) > 1]
    sample = pairs[:: max(1, len(pairs) // PAIR_SAMPLE)]
    if not pairs or not all(any(map(has_few_colors, group)) for group in sample):
        return []
    return [
        f"{len(pairs):,} images share their name with an image of few colors, such as "
        f"{' and '.join(source.name for source in pairs[0])}: masks are read as images of the class, unless "
        "they are moved away or listed as `ignore`"
    ]


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
