"""Kinds of data sources, recognized by their content."""

import zipfile
from pathlib import Path
from typing import Literal

from relearn.model.images.formats import HEADER_BYTES, recognize_format
from relearn.model.sources.tables import PARQUET_MAGIC
from relearn.model.sources.tree import is_archive

SourceKind = Literal["folder", "csv", "parquet", "npz", "archive", "toml", "image"]
KINDS: tuple[SourceKind, ...] = ("folder", "csv", "parquet", "npz", "archive")
"""Kinds that a person may name, as in csv:PATH."""


def recognize_kind(path: Path) -> SourceKind:
    """Return the kind of an existing source; a file that is nothing else counts as CSV."""
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "csv"
    if path.suffix.lower() == ".toml":
        return "toml"
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if recognize_format(head):
        return "image"
    if head.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return "npz" if names and all(name.endswith(".npy") for name in names) else "archive"
    return "archive" if is_archive(path) else "csv"
