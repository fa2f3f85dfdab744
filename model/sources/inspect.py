"""Inspection of a data source: what it is and how it is read, from names, headers and values."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from relearn.model.description.class_names import find_joint_names, sort_class_names
from relearn.model.description.name_words import find_word_split, match_splits
from relearn.model.description.source_description import (
    AmbiguousDataError,
    DataDescription,
    Layout,
    read_choices,
)
from relearn.model.errors import DataError, InfrastructureError
from relearn.model.sources.bare_pixels import inspect_arrays, inspect_pixel_tables
from relearn.model.sources.columns import LABEL_NAMES, find_column, find_label_columns
from relearn.model.sources.file_lists import (
    FileColumn,
    find_bytes_column,
    find_files,
    inspect_image_rows,
    list_rows,
    may_list_files,
)
from relearn.model.sources.folders import inspect_folders, place_images
from relearn.model.sources.image_survey import list_images
from relearn.model.sources.pixel_columns import find_packed_column
from relearn.model.sources.tables import TABLE_SUFFIXES, OpenFile, TableFile, open_table
from relearn.model.sources.tree import KINDS, FileTree, SourceKind, check_kind, open_tree

__all__ = ["AmbiguousDataError", "inspect_source"]
MIN_PIXELS = 16
MAX_CLASSES = 1000
GROUP_LAYOUTS = {
    "group_level": ("folder", "file_names"),
    "groups_column": ("file_list", "image_table", "pixel_table"),
}

Listings = list[tuple[TableFile, FileColumn]]


def inspect_source(
    source: Path,
    choices: dict[str, Any] | None = None,
    kind: SourceKind | None = None,
    sample: int | None = None,
) -> DataDescription:
    """Describe the data at `source`, a file, folder, archive or dataset.toml, without changing anything.

    `choices` are settings of the description that a person chose. Without `kind` it is recognized. About
    `sample` image files are opened, by default all. Raises AmbiguousDataError if two readings are possible,
    DataError if nothing is readable or too much would be left out.
    """
    kind, choices = check_kind(source, kind), choices or {}
    if kind == "toml":
        choices = read_choices(source) | choices
        source = choices["source"]
        kind = check_kind(source)
    derived = {"source", "counts", "notes", "cautions"}
    choices = {name: value for name, value in choices.items() if name not in derived}
    try:
        description = _inspect(source, choices, kind, sample)
    except OSError as error:
        raise InfrastructureError(
            f"cannot read {error.filename or source}: {error.strerror or error}"
        ) from None
    _check_groups(description.layout, choices)
    classes = choices.get("classes") or sort_class_names(description.classes)
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{source} has {len(classes)} different labels, accepted: up to {MAX_CLASSES}")
    if len(classes) < 2:
        got = "; ".join([", ".join(map(repr, classes)), *description.notes, *description.cautions])
        raise DataError(f"{source}: at least two classes need images, got {len(classes)}: {got}")
    cautions = list(description.cautions)
    if joint := find_joint_names(classes):
        cautions.append(
            f"{len(joint):,} of {len(classes):,} class names join several labels, such as {joint[0]!r}: an "
            "image has one label here, and each combination is learned as a class of its own"
        )
    description = description.model_copy(update={"classes": tuple(classes), "cautions": tuple(cautions)})
    description.check_left_out(choices.get("left_out", {}))
    return description


def _check_groups(layout: str, choices: dict[str, Any]) -> None:
    """Raise `DataError` for a setting of groups that a layout does not have: it would have no effect."""
    for name, layouts in GROUP_LAYOUTS.items():
        if choices.get(name) is not None and layout not in layouts:
            accepted = f"accepted with layout {', '.join(layouts)}"
            raise DataError(f"{name}: got {choices[name]!r} for data of layout {layout}, {accepted}")


def _inspect(source: Path, choices: dict[str, Any], kind: SourceKind, sample: int | None) -> DataDescription:
    if choices.get("layout", "folder") not in get_args(Layout):
        raise DataError(f"layout: got {choices['layout']!r}, accepted: {', '.join(get_args(Layout))}")
    if kind == "npz":
        return inspect_arrays(source, choices)
    if kind in ("folder", "archive"):
        with open_tree(source) as tree:
            return _inspect_tree(tree, choices, sample)
    if kind == "image":
        raise DataError(f"{source} is an image, accepted: {', '.join(KINDS)}")
    table = open_table(str(source), lambda: source.open("rb"), choices, kind)
    if find_bytes_column(table):
        return inspect_image_rows(single_file_tree(source), [table], None, [], choices, sample)
    if _has_pixels(table, choices):
        return inspect_pixel_tables(source, [table], choices)
    if "image_column" in choices or may_list_files(table):
        with open_tree(source.parent) as tree:
            images = list_images(tree)
            named, files = _open_listing(source.name, lambda: source.open("rb"), images, choices)
            if files:
                description = inspect_image_rows(tree, [named], files, images, choices, sample)
                return description.model_copy(update={"source": source})
    return inspect_pixel_tables(source, [table], choices)  # says what is wrong with the pixels


def single_file_tree(source: Path) -> FileTree:
    """Return the tree of a table that holds its images itself."""
    return FileTree(source, (), (), 0, lambda name: source.open("rb"))


def _has_pixels(table: TableFile, choices: dict[str, Any]) -> bool:
    if choices.get("layout") in ("pixel_table", "file_list"):
        return bool(choices["layout"] == "pixel_table")
    return len(table.columns) > MIN_PIXELS or bool(find_packed_column(table))


def _inspect_tree(tree: FileTree, choices: dict[str, Any], sample: int | None) -> DataDescription:
    images = list_images(tree)
    names = choices.get("tables") or [
        name
        for name in tree.files
        if name.lower().endswith(TABLE_SUFFIXES) and "submission" not in name.lower()
    ]
    unread = list[str]()
    if images and choices.get("layout") in (None, "file_list"):
        listings, others, unread = _find_listings(tree, names, images, choices)
        listing = _inspect_listings(tree, listings, others, images, choices, sample) if listings else None
        if listing is not None:
            return listing
    if images or not names:
        description = inspect_folders(tree, images, choices, sample)
        return description.model_copy(update={"notes": (*description.notes, *unread)})
    tables = [open_table(name, partial(tree.open_file, name), choices) for name in names]
    if find_bytes_column(tables[0]):
        return inspect_image_rows(tree, tables, None, images, choices, sample)
    if len({table.columns for table in tables}) > 1:
        raise DataError(
            f"{tree.location} has tables with different columns, {', '.join(names[:5])}, and no images, "
            f"accepted: one of them, such as --dataset {tree.location}/{names[0]}"
        )
    description = inspect_pixel_tables(tree.location, tables, choices)
    return description.model_copy(update={"tables": tuple(names)})


def _find_listings(
    tree: FileTree, names: Sequence[str], images: list[str], choices: dict[str, Any]
) -> tuple[Listings, list[TableFile], list[str]]:
    """Return the tables that list image files with labels, other tables, and why these are not read."""
    listings, others, unread = Listings(), list[TableFile](), list[str]()
    metadata = [name for name in names if Path(name).name.startswith("metadata.")]
    for name in metadata or names:
        table = None
        try:
            table, files = _open_listing(name, partial(tree.open_file, name), images, choices)
            if files is None:
                row = ", ".join(map(repr, table.sample.head(1).to_numpy().ravel().tolist()[:3]))
                raise DataError(f"its first row is {row}, but an image file is {images[0]}")
            find_label_columns(table, [column for column in table.columns if column != files.name], choices)
            listings.append((table, files))
        except AmbiguousDataError:
            raise
        except DataError as error:
            unread.append(f"{name} is not read: {error}")
            others += [table] if table else []
    of_splits = match_splits((table.name for table, _ in listings), find_word_split).values()
    members = {name for names in of_splits for name in names}
    return [pair for pair in listings if not members or pair[0].name in members], others, unread


def _open_listing(
    name: str, open_file: OpenFile, images: Sequence[str], choices: dict[str, Any]
) -> tuple[TableFile, FileColumn | None]:
    """Open a table and find its column of file names; a first line that names a file is no header."""
    table = open_table(name, open_file, choices)
    files = find_files(table, images, choices)
    if files is None or files.header or "header" in choices:
        return table, files
    return _open_listing(name, open_file, images, choices | {"header": False})


def _inspect_listings(
    tree: FileTree,
    listings: Listings,
    others: Sequence[TableFile],
    images: list[str],
    choices: dict[str, Any],
    sample: int | None,
) -> DataDescription | None:
    """Describe the image files by the tables that list them; None if their folders say the same."""
    columns, files = listings[0][0].columns, listings[0][1]
    same_shape = [table for table, other in listings if other == files._replace(file_count=other.file_count)]
    if len(same_shape) < len(listings):
        raise AmbiguousDataError(
            f"{tree.location}: several tables list the images",
            {f"{table.name} has the labels": {"tables": [table.name]} for table, _ in listings[:2]},
        )
    # A table of the same columns counts too: if none of its files exists, they are missing.
    tables = [*same_shape, *(table for table in others if table.columns == columns)]
    description = inspect_image_rows(tree, tables, files, images, choices, sample)
    agree = "layout" not in choices and _folders_agree(tree, tables, description, images)
    return None if agree and not (description.splits or description.left_out) else description


def _folders_agree(
    tree: FileTree, tables: Sequence[TableFile], description: DataDescription, images: list[str]
) -> bool:
    """Return True if class folders give the labels that the tables give; raise if some differ."""
    try:
        folders = inspect_folders(tree, images, {}, sample=1)
    except DataError:
        return False
    is_named = find_column(description.label_columns, LABEL_NAMES) is not None
    if len(folders.classes) < 2 or (is_named and not set(folders.classes) & set(description.classes)):
        return False
    placed, _ = place_images(folders, images)
    labels = {row.source.name: row.label for row in list_rows(tree, tables, description, images)[0]}
    listed = {name: labels.get(f"{tree.location}/{name}") for name in placed}
    unlisted = sum(label is None for label in listed.values())
    if any(label not in (None, placed[name][1]) for name, label in listed.items()):
        problem = "a table with other labels"
    elif unlisted:
        problem = f"a table that lists all but {unlisted:,} of their images"
    else:
        return True
    raise AmbiguousDataError(
        f"{tree.location} has class folders, and {problem}",
        {
            "the folders are the classes": {"layout": "folder"},
            "the table has the labels": {"layout": "file_list"},
        },
    )
