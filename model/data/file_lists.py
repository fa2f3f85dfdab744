"""Tables of image files, by name or in the table itself, with labels: inspection and reading."""

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from relearn.model.data.columns import (
    GROUP_NAMES,
    find_label_columns,
    find_named,
    find_split_column,
    is_index,
)
from relearn.model.data.description import AmbiguousDataError, DataDescription, SplitName, to_toml_value
from relearn.model.data.image_survey import choose_image_scale, survey_images
from relearn.model.data.pixel_tables import read_labels
from relearn.model.data.raw_dataset import ImageRow, RawDataset, read_image_rows
from relearn.model.data.read_options import ReadOptions
from relearn.model.data.split_names import match_splits
from relearn.model.data.tables import TableFile
from relearn.model.data.tree import FileTree
from relearn.model.errors import DataError
from relearn.model.images.decode_many import ImageSource, choose_side

IMAGE_NAMES = ("image", "img", "picture", "photo", "file", "bytes")
TOP_FOLDER = "./"  # of the source
MIN_FOUND = 0.5  # of the names in a column that are files, for a column of file names


class _Files(NamedTuple):
    """How the names of a column become files: folder before them, suffix after them, and how many exist."""

    column: str
    folder: str
    suffix: str
    found: int


def find_bytes_column(table: TableFile) -> str | None:
    """Return the column that holds image files: bytes, bare or as {"bytes": …, "path": …}."""
    columns = [name for name in table.columns if any(map(_has_image, table.sample[name].head(20)))]
    return find_named(columns, IMAGE_NAMES) or next(iter(columns), None)


def find_files(
    table: TableFile, tree: FileTree, images: Sequence[str], given: dict[str, Any]
) -> _Files | None:
    """Return the column of file names, with the folder and suffix that make most of them files.

    Raises AmbiguousDataError if two folders hold files of these names.
    """
    if "image_column" in given:
        return _Files(given["image_column"], given.get("image_folder", ""), given.get("image_suffix", ""), 0)
    prefix = _parent(table.name)
    by_place = defaultdict[tuple[str, str], set[str]](set)
    for image in images:
        path = PurePosixPath(image)
        for folder in ("", *(f"{parent}/" for parent in path.parents if str(parent) != ".")):
            rest = image[len(folder) :]
            by_place[folder, ""].add(rest)
            by_place[folder, path.suffix].add(rest.removesuffix(path.suffix))
    matches = list[_Files]()
    for column in table.columns:
        names = [_clean(value) for value in table.sample[column]]
        for (folder, suffix), members in by_place.items():
            found = sum(name in members for name in names)
            if found > MIN_FOUND * len(names):
                matches.append(_Files(column, folder, suffix, found))
    if not matches:
        return None
    best = max(matches, key=lambda match: (match.found, match.folder == prefix, -len(match.suffix)))
    rivals = [match for match in matches if match[::3] == best[::3] and match.folder != best.folder]
    if rivals and best.folder != prefix:
        raise AmbiguousDataError(
            f"{table.name}: several folders have the files of its column {best.column!r}",
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
    files: _Files | None,
    images: Sequence[str],
    given: dict[str, Any],
) -> DataDescription:
    """Describe tables with an image file, or the name of one, in each row."""
    table = tables[0]
    image_column = files.column if files else find_bytes_column(table)
    others = [name for name in table.columns if name != image_column and not is_index(name)]
    others = [name for name in others if not _is_path(name, files)]
    split_column = find_split_column(table, others, given)
    group = find_named([name for name in others if name != split_column], GROUP_NAMES)
    labels = find_label_columns(table, [name for name in others if name not in (split_column, group)], given)
    names = [table.name for table in tables]
    splits = given.get("splits") or (
        _match_values(tables, split_column) if split_column else _match_tables(names)
    )
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
    rows, left_out = _list_rows(tree, tables, description, images)
    if not rows:
        raise DataError(f"{tree.location}: no row of {table.name} names an image file that exists")
    sources = [row.source for row in rows]
    survey = survey_images(sources)
    counts = Counter(row.split for row in rows)
    found: dict[str, Any] = {
        "scale": given["scale"]
        if "scale" in given
        else choose_image_scale(str(tree.location), sources, survey),
        "image_size": given.get("image_size") or choose_side(survey.sizes),
        "classes": given.get("classes") or tuple({row.label for row in rows}),
        "counts": {split: counts[split] for split in ("train", "validation", "test") if counts[split]},
        "left_out": dict(left_out),
        "notes": tuple(survey.notes()),
    }
    return description.model_copy(update=found)


def read_image_table(
    tree: FileTree,
    tables: Sequence[TableFile],
    description: DataDescription,
    images: Sequence[str],
    options: ReadOptions,
) -> RawDataset:
    """Read the images that the rows of the tables hold or name."""
    rows, _ = _list_rows(tree, tables, description, images)
    return read_image_rows(description, rows, options)


def list_labels(
    tree: FileTree, tables: Sequence[TableFile], description: DataDescription, images: Sequence[str]
) -> dict[str, str]:
    """Return the label of each image file that the tables list."""
    rows, _ = _list_rows(tree, tables, description, images)
    return {row.source.name: row.label for row in rows}


def _list_rows(
    tree: FileTree, tables: Sequence[TableFile], description: DataDescription, images: Sequence[str]
) -> tuple[list[ImageRow], Counter[str]]:
    """Return the rows that have an image and a split, and count the images that are left out."""
    rows, left_out, existing = list[ImageRow](), Counter[str](), set(images)
    split_of = {name: split for split, parts in description.splits.items() for name in parts}
    column, split_column = str(description.image_column), description.split_column
    text_columns = [*description.label_columns, *([split_column] if split_column else [])]
    if description.layout == "file_list":
        text_columns.append(column)
    for table in tables:
        start = 0
        for chunk in table.read(text_columns, list(dict.fromkeys([column, *text_columns]))):
            labels = read_labels(table, chunk, description, start)
            names = chunk[split_column].astype(str) if split_column else [table.name] * len(chunk)
            for row, (cell, label, name) in enumerate(
                zip(chunk[column], labels, names, strict=True), start + 1
            ):
                split = split_of.get(name) if split_of else "train"
                source = _find_source(tree, table, description, cell, row, existing)
                if source is None:
                    left_out["listed, but without a file"] += 1
                elif split is None:
                    left_out["in no split"] += 1
                else:
                    rows.append(ImageRow(source, split, str(label)))
            start += len(chunk)
    if description.layout == "file_list":
        listed = {row.source.name for row in rows}
        unlisted = sum(f"{tree.location}/{name}" not in listed for name in images) - left_out["in no split"]
        left_out["not listed with a label"] = max(0, unlisted)
    return rows, +left_out


def _find_source(
    tree: FileTree, table: TableFile, description: DataDescription, cell: Any, row: int, existing: set[str]
) -> ImageSource | None:
    if description.layout == "image_table":
        content = _image_bytes(cell)
        prefix = "" if table.name == str(tree.location) else f"{table.name} "
        return ImageSource(f"{prefix}row {row}", lambda: io.BytesIO(content))
    folder = description.image_folder or _parent(table.name)
    name = f"{'' if folder == TOP_FOLDER else folder}{_clean(cell)}{description.image_suffix}"
    if name not in existing:
        return None
    return ImageSource(f"{tree.location}/{name}", lambda: tree.open_file(name))


def _image_bytes(value: Any) -> bytes:
    """Return the bytes of an image file, bare or as {"bytes": …, "path": …}; b"" without any."""
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else b""


def _has_image(value: Any) -> bool:
    return bool(_image_bytes(value))


def _clean(value: Any) -> str:
    """Return a file name as the tree lists it."""
    return str(value).strip().replace("\\", "/").removeprefix("./")


def _is_path(name: str, files: _Files | None) -> bool:
    """Return True for a column of paths beside the images themselves."""
    return files is None and any(word in name.lower() for word in ("path", "file"))


def _match_tables(names: Iterable[str]) -> dict[SplitName, tuple[str, ...]]:
    """Match tables to splits by their folder, or by the start of their name: train-00000-of-00002."""
    words = {}
    for name in names:
        path = PurePosixPath(name)
        words[name] = [path.name.split(".")[0].split("-")[0], *path.parent.parts[-1:]]
    for position in (0, 1):
        by_word = defaultdict[str, list[str]](list)
        for name, parts in words.items():
            if position < len(parts):
                by_word[parts[position]].append(name)
        splits = match_splits(by_word)
        if len(splits) > 1:
            return {
                split: tuple(name for word in parts for name in by_word[word])
                for split, parts in splits.items()
            }
    return {}


def _match_values(tables: Sequence[TableFile], split_column: str) -> dict[SplitName, tuple[str, ...]]:
    values = {
        str(value)
        for table in tables
        for chunk in table.read([split_column], [split_column])
        for value in chunk[split_column].unique()
    }
    splits = match_splits(sorted(values))
    if not splits:
        raise DataError(f"{tables[0].name}: no value of {split_column!r} is the training split")
    return splits


def _parent(name: str) -> str:
    folder = name.rpartition("/")[0]
    return f"{folder}/" if folder else ""
