"""Image files in class folders, with or without split folders: inspection and reading."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from relearn.model.errors import DataError
from relearn.model.images.decode_many import ImageSource
from relearn.model.sources.description import (
    BELOW_SOURCE,
    AmbiguousDataError,
    DataDescription,
    SplitName,
    find_similar_names,
    to_toml,
)
from relearn.model.sources.image_survey import describe_images, list_images, list_other_suffixes
from relearn.model.sources.raw_dataset import (
    SPLITS,
    ImageRow,
    RawDataset,
    ReadOptions,
    count_splits,
    find_split,
    find_word_split,
    match_splits,
    read_image_rows,
)
from relearn.model.sources.tree import FileTree

ACCEPTED = "accepted: a folder for each class with image files in it"
MASK = re.compile(r"(.+)[ _-](?:mask|seg|segmentation)(?:[ _-]?\d+)?\.\w+", re.IGNORECASE)
LIST_SUFFIXES = (".txt", ".json", ".mat", ".xml", ".yaml")
# Names, and parts of names, of folders that hold images of all classes.
IMAGE_WORDS = re.compile(r"images?|imgs?|photos?|pictures?|jpe?g|png", re.IGNORECASE)
HOLDER_WORD = re.compile(
    rf"{IMAGE_WORDS.pattern}|annotations?|masks?|labels?|parts?|folds?|batch|shards?", re.IGNORECASE
)


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
    cautions = [] if "layout" in choices else _review_class_folders(tree, description, placed)
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
    lists = [name for name in tree.files if name.endswith(LIST_SUFFIXES) and _names_split(name)]
    if lists:
        cautions.append(f"{', '.join(lists[:5])} may list the splits, and are not read")
    update = {
        "notes": (*description.notes, *_note_unread(tree, description)),
        "cautions": (*description.cautions, *cautions),
    }
    return description.model_copy(update=update)


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
    images = list(images)
    stems = {image.rpartition(".")[0] for image in images}
    for image in images:
        name = image.removeprefix(prefix)
        split: SplitName | None = "train"
        if split_of:
            holder = next((folder for folder in split_of if name.startswith(f"{folder}/")), "")
            split, name = split_of.get(holder), name.removeprefix(f"{holder}/")
        *folders, file_name = name.split("/")
        if is_ignored(image.removeprefix(prefix), description.ignore):
            left_out["ignored, as the description says"] += 1
        elif split is None:
            left_out["outside the split folders"] += 1
        elif (match := MASK.fullmatch(image)) and match[1] in stems:
            left_out["masks of other images"] += 1
        elif description.layout == "file_names" and image.startswith(prefix):
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


def _review_class_folders(tree: FileTree, description: DataDescription, placed: Iterable[str]) -> list[str]:
    """Return a warning if all classes hold the same folders; raise AmbiguousDataError for names of parts."""
    split_folders = [folder for folders in description.splits.values() for folder in folders] or [""]
    names = [name for folder in split_folders for name in below(folder, below(description.root, placed))]
    inner = defaultdict[str, set[str]](set)
    for path in (name.split("/") for name in names):
        inner[path[0]].add(path[1] if len(path) > 2 else "")
    common = sorted(set.intersection(*inner.values()) - {""})
    is_choice = len(inner) > 1 and len(common) > 1 and not any("" in folders for folders in inner.values())
    splits = {
        split: [f"{folder}/{name}".strip("/") for folder in folders for name in sorted(inner)]
        for split, folders in (description.splits or {"train": ("",)}).items()
    }
    remaining_words = {re.sub(r"[\W\d_]", "", HOLDER_WORD.sub("", name)) for name in inner}
    if len(remaining_words) > 1 or not all(map(HOLDER_WORD.search, inner)):
        problem = f"all classes have the folders {', '.join(common[:5])}; if these are the classes, write"
        return [f"{problem} `{to_toml({'splits': splits})}` into {BELOW_SOURCE}"] if is_choice else []
    holders = [name for name in sorted(inner) if IMAGE_WORDS.fullmatch(name)]
    labels = Counter(find_label(name.rpartition("/")[2]) for name in names)
    readings: dict[str, dict[str, Any]] = {"these are the classes": {"layout": "folder"}}
    if is_choice:
        readings[f"the folders in them are, such as {common[0]}"] = {"splits": splits}
    elif len(labels) > 1 and min(labels.values()) > 1 and not labels[""]:
        root = f"{description.root}/{holders[0]}".strip("/") if len(inner) > len(holders) == 1 else ""
        choice = {"layout": "file_names"} | ({"root": root} if root else {})
        readings["the file names start with the class, as cat.1.jpg does"] = choice
    elif len(inner) == 1:
        return []  # too few classes
    raise AmbiguousDataError(
        f"{tree.location} has the folders {', '.join(sorted(inner)[:5])}, "
        "each of which may hold images of all classes",
        readings,
    )


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


def _names_split(name: str) -> bool:
    """Return True if a word of the file name is that of a split."""
    return any(map(find_split, re.split(r"[\W_]+", name.rpartition("/")[2])))


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
