"""Tables of image files, by name or in the table itself, with labels: inspection and reading."""

import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from relearn.model.description.raw_dataset import MAX_NAMED_FILES, ImageRow, count_splits
from relearn.model.description.source_description import AmbiguousDataError, DataDescription
from relearn.model.errors import DataError
from relearn.model.images.decode_many import ImageSource
from relearn.model.sources.columns import find_column, find_roles, is_index, read_rows
from relearn.model.sources.image_survey import describe_images
from relearn.model.sources.tables import TableFile, tidy_labels
from relearn.model.sources.tree import FileTree

IMAGE_NAMES = ("image", "img", "picture", "photo", "file", "bytes")
TOP_FOLDER = "./"  # of the source
ANY_FOLDER = "**/"  # for file names without a folder, or with the folder of another machine
ANY_SUFFIX = ".*"
MIN_FILE_FRACTION = 0.5  # of the names in a column that are files, for a column of file names


class FileColumn(NamedTuple):
    """Names of a column that become files: the folder before them, the suffix after, and how many exist.

    `header` is false for a column whose name is such a file itself: the first row of a table without header.
    """

    name: str
    folder: str
    suffix: str
    file_count: int
    header: bool = True


def find_bytes_column(table: TableFile) -> str | None:
    """Return the column that holds image files: bytes, bare or as {"bytes": …, "path": …}."""
    columns = [name for name in table.columns if any(map(_image_bytes, table.sample[name].head(20)))]
    return find_column(columns, IMAGE_NAMES) or next(iter(columns), None)


def may_list_files(table: TableFile) -> bool:
    """Return True if most values of a column differ and are not fractions, as file names do."""
    return any(
        values.dtype.kind != "f" and values.astype(str).nunique() > len(values) / 2
        for values in (table.sample[name] for name in table.columns if not is_index(name))
    )


def find_files(table: TableFile, images: Sequence[str], choices: dict[str, Any]) -> FileColumn | None:
    """Return the column of file names, with the folder and suffix that make most of them files.

    Raises AmbiguousDataError if two folders hold files of these names.
    """
    if "image_column" in choices:
        return FileColumn(
            choices["image_column"], choices.get("image_folder", ""), choices.get("image_suffix", ""), 0
        )
    prefix = _parent(table.name)
    by_place = defaultdict[tuple[str, str], set[str]](set)
    for image in images:
        path = PurePosixPath(image)
        for folder in ("", *(f"{parent}/" for parent in path.parents if str(parent) != ".")):
            rest = image[len(folder) :]
            by_place[folder, ""].add(rest)
            by_place[folder, path.suffix].add(rest.removesuffix(path.suffix))
            by_place[folder, ANY_SUFFIX].add(rest.removesuffix(path.suffix))
    for suffix in {suffix for _, suffix in by_place}:
        by_place[ANY_FOLDER, suffix] = set(_index_files(images, suffix, ANY_FOLDER))
    matches = list[FileColumn]()
    for column in table.columns:
        names = set(map(_clean, table.sample[column]))
        bare = {name.rpartition("/")[2] for name in names} if len(set(map(_parent, names))) == 1 else set()
        counts = {
            (folder, suffix): len((bare if folder == ANY_FOLDER else names) & members)
            for (folder, suffix), members in by_place.items()
        }
        matches += [
            FileColumn(column, *at, count)
            for at, count in counts.items()
            if count > MIN_FILE_FRACTION * len(names)
        ]
    if not matches:
        return None
    best = max(
        matches,
        key=lambda match: (
            match.file_count,
            match.folder == prefix,
            match.folder != ANY_FOLDER,
            -len(match.suffix),
        ),
    )
    best = best._replace(header=_clean(best.name) not in by_place[best.folder, best.suffix])
    rivals = [
        match
        for match in matches
        if match[::3] == best[::3] and match.folder not in (best.folder, ANY_FOLDER)
    ]
    if rivals and best.folder != prefix:
        raise AmbiguousDataError(
            f"{table.name}: several folders have the files of its column {best.name!r}",
            {
                f"the images are in {match.folder or 'no folder'}": {"image_folder": match.folder}
                for match in (best, rivals[0])
            },
        )
    return best._replace(folder="" if best.folder == prefix else best.folder or TOP_FOLDER)


def inspect_image_rows(
    tree: FileTree,
    tables: Sequence[TableFile],
    files: FileColumn | None,
    images: Sequence[str],
    choices: dict[str, Any],
    sample: int | None = None,
) -> DataDescription:
    """Describe tables with an image file, or the name of one, in each row."""
    table = tables[0]
    image_column = files.name if files else find_bytes_column(table)
    others = [name for name in table.columns if name != image_column and not is_index(name)]
    if files is None:  # paths beside the images themselves
        others = [name for name in others if not re.search("path|file", name.lower())]
    description = DataDescription.model_validate(
        {"source": tree.location, "layout": "file_list" if files else "image_table"}
        | choices
        | find_roles(tables, others, choices)
        | {
            "tables": [table.name for table in tables],
            "image_column": image_column,
            "image_folder": files.folder if files else "",
            "image_suffix": files.suffix if files else "",
        }
    )
    rows, missing, left_out = list_rows(tree, tables, description, images)
    if not rows:
        raise DataError(f"{tree.location}: no row of {table.name} names one image file that exists")
    values: dict[str, Any] = {
        "classes": tuple({row.label for row in rows}),
        "counts": count_splits(row.split for row in rows),
        "left_out": dict(left_out),
    }
    if missing:
        shown = ", ".join(missing[:MAX_NAMED_FILES]) + (", …" if len(missing) > MAX_NAMED_FILES else "")
        values["cautions"] = (f"{len(missing):,} listed files do not exist: {shown}",)
    return describe_images(
        description.model_copy(update=values), [row.source for row in rows], choices, sample
    )


def list_rows(
    tree: FileTree, tables: Sequence[TableFile], description: DataDescription, images: Sequence[str]
) -> tuple[list[ImageRow], list[str], Counter[str]]:
    """List the rows that have an image and a split, the missing files, and the images left out by reason.

    Raises DataError for a file with two labels.
    """
    rows, missing, left_out, parents = list[ImageRow](), list[str](), Counter[str](), set[str]()
    is_list = description.layout == "file_list"
    files = _index_files(images, description.image_suffix, description.image_folder)
    column = str(description.image_column)
    for part in read_rows(tables, description, [column], [column] if is_list else []):
        cells = zip(part.cells[column], part.labels.tolist(), part.splits, part.groups, strict=True)
        if is_list:
            parents |= set(map(_parent, map(_clean, part.cells[column])))
        for number, (cell, label, split, group) in enumerate(cells, part.start + 1):
            file = files.get(_place(part.table, description, cell)) if is_list else ""
            if file is None:
                missing.append(str(cell))
            elif split is None:
                left_out["in no split"] += 1
            else:
                rows.append(ImageRow(_open_row(tree, part.table, file, cell, number), split, label, group))
    tidy = tidy_labels(np.array([row.label for row in rows], dtype=str)).tolist()
    rows = [row._replace(label=label) for row, label in zip(rows, tidy, strict=True)]
    if is_list:
        if description.image_folder == ANY_FOLDER and len(parents) > 1:
            raise DataError(
                f"{tables[0].name}: the files lie in {', '.join(sorted(parents)[:5])}, folders that do not "
                "exist, accepted: paths from the folder of the table"
            )
        label_of = dict[str, str]()
        for row in rows:
            if label_of.setdefault(row.source.name, row.label) != row.label:
                raise DataError(
                    f"{tables[0].name}: {row.source.name} has two labels, {label_of[row.source.name]!r} and "
                    f"{row.label!r}, accepted: one label for each file"
                )
        unlisted = sum(f"{tree.location}/{name}" not in label_of for name in images)
        left_out["not listed with a label"] = max(0, unlisted - left_out["in no split"])
        left_out["listed, but without a file"] = len(missing)
    return rows, missing, +left_out


def _place(table: TableFile, description: DataDescription, cell: Any) -> str:
    """Return the path that a cell names, without the suffix that it lacks."""
    folder = description.image_folder or _parent(table.name)
    if folder == ANY_FOLDER:
        return _clean(cell).rpartition("/")[2]
    return f"{'' if folder == TOP_FOLDER else folder}{_clean(cell)}"


def _index_files(images: Sequence[str], suffix: str, folder: str) -> dict[str, str]:
    """Return the image file of each path that a table may list; none for paths that several files fit."""
    files = [name for name in images if suffix == ANY_SUFFIX or name.endswith(suffix)]
    paths = [
        str(PurePosixPath(name).with_suffix("")) if suffix == ANY_SUFFIX else name.removesuffix(suffix)
        for name in files
    ]
    if folder == ANY_FOLDER:
        paths = [path.rpartition("/")[2] for path in paths]
    counts = Counter(paths)
    return {path: name for path, name in zip(paths, files, strict=True) if counts[path] == 1}


def _open_row(tree: FileTree, table: TableFile, file: str, cell: Any, row: int) -> ImageSource:
    """Return the image of a row: `file`, or the bytes in the row itself."""
    if file:
        return ImageSource(f"{tree.location}/{file}", lambda: tree.open_file(file))
    content = _image_bytes(cell)
    prefix = "" if table.name == str(tree.location) else f"{table.name} "
    return ImageSource(f"{prefix}row {row}", lambda: io.BytesIO(content))


def _image_bytes(value: Any) -> bytes:
    """Return the bytes of an image file, bare or as {"bytes": …, "path": …}; b"" without any."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def _clean(value: Any) -> str:
    """Return a file name as the tree lists it."""
    return str(value).strip().replace("\\", "/").removeprefix("./")


def _parent(name: str) -> str:
    folder = name.rpartition("/")[0]
    return f"{folder}/" if folder else ""
