"""Words in the names of files, folders, columns and arrays: splits, masks, holders of images."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from relearn.model.description.source_description import SPLITS, SplitName

SPLIT_WORDS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
# Words around the name of a split: train_set, test-data, images_train.
_FILLERS = r"(?:set|data|dataset|images?|imgs?|split|folder|dir)"
_IMAGES = r"images?|imgs?|photos?|pictures?|jpe?g(?:[ _-]?images?)?|png"
_MASKS = r"masks?|seg(?:mentations?)?|labels?|annotations?|trimaps?|mattes?|ground[ _-]?truths?|gt"
# Folders that hold images, or masks, of all classes; parts of names of folders that hold some of each class.
IMAGE_FOLDER = re.compile(_IMAGES, re.IGNORECASE)
MASK_FOLDER = re.compile(_MASKS, re.IGNORECASE)
HOLDER_WORD = re.compile(rf"{_IMAGES}|annotations?|masks?|labels?|parts?|folds?|batch|shards?", re.IGNORECASE)
MASK_STEM = re.compile(rf"(.+)[ _-](?:{_MASKS})(?:[ _-]?\d+)?", re.IGNORECASE)


def split_words(name: str) -> list[str]:
    """Return the words of a name without the folders before it."""
    return re.split(r"[\W_]+", name.rpartition("/")[2])


def find_split(name: str) -> SplitName | None:
    """Return the split that a folder, table, array or value is named after, or None."""
    letters = re.sub(r"[^a-z]", "", name.lower())
    bare = re.sub(rf"^{_FILLERS}|{_FILLERS}+$", "", letters)
    return next((split for split, words in SPLIT_WORDS.items() if letters in words or bare in words), None)


def find_word_split(name: str) -> SplitName | None:
    """Return the split that one word of a file or folder name says, else one of the folders above it."""
    path = PurePosixPath(name)
    words = {split for word in split_words(path.name.split(".")[0]) if (split := find_split(word))}
    if words:
        return words.pop() if len(words) == 1 else None
    return next((split for folder in reversed(path.parts[:-1]) if (split := find_split(folder))), None)


def match_splits(
    names: Iterable[str], find: Callable[[str], SplitName | None] = find_split
) -> dict[SplitName, tuple[str, ...]]:
    """Return the names of each split; {} without a training split.

    With train and validation alone, the validation images are the test split, as published figures have it.
    """
    matches: dict[SplitName, tuple[str, ...]] = dict.fromkeys(SPLITS, ())
    for name in names:
        if split := find(name):
            matches[split] += (name,)
    if not matches["test"]:
        matches["test"], matches["validation"] = matches["validation"], ()
    return {split: members for split, members in matches.items() if members} if matches["train"] else {}


def find_label(file_name: str) -> str:
    """Return the class at the start of a file name, before its number: `cat` for cat.12.jpg."""
    match = re.match(r"(.*?[^\W\d_])[\s._-]*\(?\d+\)?(\.\w+)?$", file_name)
    return match[1] if match else ""


def find_masks(images: Iterable[str]) -> set[str]:
    """Find images that mark parts of others: 1_mask.png beside 1.jpg, masks/1.png beside images/1.jpg."""
    paths = {image: tuple(os.path.splitext(image)[0].split("/")) for image in images}  # noqa: PTH122  # fast
    photos = {*paths.values(), *(_drop_folders(path, IMAGE_FOLDER) for path in paths.values())}
    masks = set[str]()
    for image, path in paths.items():
        match = MASK_STEM.fullmatch(path[-1])
        marked = {path, (*path[:-1], match[1])} if match else {path}
        marked |= {_drop_folders(photo, MASK_FOLDER) for photo in marked}
        if (marked - {path}) & photos:
            masks.add(image)
    return masks


def _drop_folders(path: tuple[str, ...], words: re.Pattern[str]) -> tuple[str, ...]:
    """Return a path without the folders of these names."""
    return (*(folder for folder in path[:-1] if not words.fullmatch(folder)), path[-1])
