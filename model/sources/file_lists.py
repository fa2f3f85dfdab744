"""Tables of image files, by name or in the table itself, with labels: inspection and reading."""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from relearn.model.errors import DataError
from relearn.model.images.decode_many import ImageSource
from relearn.model.sources.columns import (
    GROUP_NAMES,
    find_label_columns,
    find_named,
    find_split_column,
    is_index,
)
from relearn.model.sources.description import AmbiguousDataError, DataDescription, to_toml_value
from relearn.model.sources.image_survey import describe_images
from relearn.model.sources.pixel_tables import read_labels
from relearn.model.sources.raw_dataset import MAX_NAMED_FILES, ImageRow, RawDataset, read_image_rows
from relearn.model.sources.read_options import ReadOptions
from relearn.model.sources.split_names import SPLITS, find_row_splits
from relearn.model.sources.tables import TableFile, tidy_labels
from relearn.model.sources.tree import FileTree

IMAGE_NAMES = ("image", "img", "picture", "photo", "file", "bytes")
TOP_FOLDER = "./"  # of the source
ANY_SUFFIX = ".*"
MIN_FOUND = 0.5  # of the names in a column that are files, for a column of file names


class FileColumn(NamedTuple):
    """Names of a column that become files: the folder before them, the suffix after, and how many exist."""

    name: str
    folder: str
    suffix: str
    found: int


def find_bytes_column(table: TableFile) -> str | None:
    """Return the column that holds image files: bytes, bare or as {"bytes": …, "path": …}."""
    columns = [name for name in table.columns if any(map(_has_image, table.sample[name].head(20)))]
    return find_named(columns, IMAGE_NAMES) or next(iter(columns), None)


def may_list_files(table: TableFile) -> bool:
    """Return True if most values of a column differ and are not fractions, as file names do."""
    return any(
        values.dtype.kind != "f" and values.astype(str).nunique() > len(values) / 2
        for values in (table.sample[name] for name in table.columns if not is_index(name))
    )


def find_files(table: TableFile, images: Sequence[str], given: dict[str, Any]) -> FileColumn | None:
    """Return the column of file names, with the folder and suffix that make most of them files.

    Raises AmbiguousDataError if two folders hold files of these names.
    """
    if "image_column" in given:
        return FileColumn(
            given["image_column"], given.get("image_folder", ""), given.get("image_suffix", ""), 0
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
    matches = list[FileColumn]()
    for column in table.columns:
        names = {_clean(value) for value in table.sample[column]}
        for (folder, suffix), members in by_place.items():
            found = len(names & members)
            if found > MIN_FOUND * len(names):
                matches.append(FileColumn(column, folder, suffix, found))
    if not matches:
        return None
    best = max(matches, key=lambda match: (match.found, match.folder == prefix, -len(match.suffix)))
    rivals = [match for match in matches if match[::3] == best[::3] and match.folder != best.folder]
    if rivals and best.folder != prefix:
        raise AmbiguousDataError(
            f"{table.name}: several folders have the files of its column {best.name!r}",
            [
                (
                    f"the images are in {match.folder or 'no folder'}",
                    f"image_folder = {to_toml_value(match.folder)}",
                )
                for match in (best, rivals[0])
            ],
        )
    return best._replace(folder="" if best.folder == prefix else best.folder or TOP_FOLDER)


def inspect_image_rows(
    tree: FileTree,
    tables: Sequence[TableFile],
    files: FileColumn | None,
    images: Sequence[str],
    given: dict[str, Any],
    sample: int | None = None,
) -> DataDescription:
    """Describe tables with an image file, or the name of one, in each row."""
    table = tables[0]
    image_column = files.name if files else find_bytes_column(table)
    others = [name for name in table.columns if name != image_column and not is_index(name)]
    others = [name for name in others if not _is_path(name, files)]
    split_column = find_split_column(table, others, given)
    group = find_named([name for name in others if name != split_column], GROUP_NAMES)
    labels = find_label_columns(table, [name for name in others if name not in (split_column, group)], given)
    names = [table.name for table in tables]
    splits = given["splits"] if "splits" in given else find_row_splits(tables, split_column)
    description = DataDescription.model_validate(
        {"source": tree.location, "layout": "file_list" if files else "image_table"}
        | given
        | {
            "tables": names,
            "separator": table.separator,
            "header": table.header,
            "image_column": image_column,
            "image_folder": files.folder if files else "",
            "image_suffix": files.suffix if files else "",
            "label_columns": labels,
            "split_column": split_column,
            "groups_column": group,
            "splits": splits,
        }
    )
    listing = _list_rows(tree, tables, description, images)
    rows = listing.rows
    if not rows:
        raise DataError(f"{tree.location}: no row of {table.name} names an image file that exists")
    counts = Counter(row.split for row in rows)
    found: dict[str, Any] = {
        "classes": given.get("classes") or tuple({row.label for row in rows}),
        "counts": {split: counts[split] for split in SPLITS if counts[split]},
        "left_out": dict(listing.left_out),
    }
    if listing.missing:
        shown = ", ".join(listing.missing[:MAX_NAMED_FILES])
        more = ", …" if len(listing.missing) > MAX_NAMED_FILES else ""
        found["cautions"] = (f"{len(listing.missing):,} listed files do not exist: {shown}{more}",)
    return describe_images(description.model_copy(update=found), [row.source for row in rows], given, sample)


def read_image_table(
    tree: FileTree,
    tables: Sequence[TableFile],
    description: DataDescription,
    images: Sequence[str],
    options: ReadOptions,
) -> RawDataset:
    """Read the images that the rows of the tables hold or name."""
    return read_image_rows(description, _list_rows(tree, tables, description, images).rows, options)


def list_labels(
    tree: FileTree, tables: Sequence[TableFile], description: DataDescription, images: Sequence[str]
) -> dict[str, str]:
    """Return the label of each image file that the tables list."""
    return {row.source.name: row.label for row in _list_rows(tree, tables, description, images).rows}


class _Listing(NamedTuple):
    """Rows of tables that have an image and a split, missing files, and images that are left out."""

    rows: list[ImageRow]
    missing: list[str]
    left_out: Counter[str]


def _list_rows(
    tree: FileTree, tables: Sequence[TableFile], description: DataDescription, images: Sequence[str]
) -> _Listing:
    """List the rows of all tables; raise for a file with two labels."""
    rows, missing, left_out = list[ImageRow](), list[str](), Counter[str]()
    is_list = description.layout == "file_list"
    find_file = _index_files(images, description.image_suffix)
    split_of = {name: split for split, parts in description.splits.items() for name in parts}
    column, split_column = str(description.image_column), description.split_column
    text_columns = [*description.label_columns, *([split_column] if split_column else [])]
    text_columns += [column] if is_list else []
    for table in tables:
        start = 0
        for chunk in table.read(text_columns, list(dict.fromkeys([column, *text_columns]))):
            labels = read_labels(table, chunk, description, start)
            names = chunk[split_column].astype(str) if split_column else [table.name] * len(chunk)
            for number, (cell, label, name) in enumerate(
                zip(chunk[column], labels, names, strict=True), start + 1
            ):
                split = split_of.get(name) if split_of else "train"
                file = find_file(_place(table, description, cell)) if is_list else ""
                if file is None:
                    missing.append(str(cell))
                elif split is None:
                    left_out["in no split"] += 1
                else:
                    source = _open_row(tree, table, file, cell, number)
                    rows.append(ImageRow(source, split, str(label)))
            start += len(chunk)
    tidy = tidy_labels(np.array([row.label for row in rows], dtype=str)).tolist()
    rows = [row._replace(label=label) for row, label in zip(rows, tidy, strict=True)]
    if is_list:
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
    return _Listing(rows, missing, +left_out)


def _place(table: TableFile, description: DataDescription, cell: Any) -> str:
    """Return the path that a cell names, without the suffix that it lacks."""
    folder = description.image_folder or _parent(table.name)
    return f"{'' if folder == TOP_FOLDER else folder}{_clean(cell)}"


def _index_files(images: Sequence[str], suffix: str) -> Callable[[str], str | None]:
    """Return the function from a listed path to its image file; None if there is none, or if several fit."""
    if suffix != ANY_SUFFIX:
        existing = set(images)
        return lambda name: name + suffix if name + suffix in existing else None
    stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in images)
    by_stem = {str(PurePosixPath(name).with_suffix("")): name for name in images}
    return lambda name: by_stem.get(name) if stems[name] == 1 else None


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


def _has_image(value: Any) -> bool:
    return bool(_image_bytes(value))


def _clean(value: Any) -> str:
    """Return a file name as the tree lists it."""
    return str(value).strip().replace("\\", "/").removeprefix("./")


def _is_path(name: str, files: FileColumn | None) -> bool:
    """Return True for a column of paths beside the images themselves."""
    return files is None and any(word in name.lower() for word in ("path", "file"))


def _parent(name: str) -> str:
    folder = name.rpartition("/")[0]
    return f"{folder}/" if folder else ""
