"""Kinds of sources, recognized by their content, and their files: archives are read in place."""

import os
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Literal, cast

from relearn.model.errors import DataError, NotFoundError
from relearn.model.images.formats import HEADER_BYTES, IMAGE_SUFFIXES, recognize_format
from relearn.model.sources.tables import PARQUET_MAGIC, TABLE_SUFFIXES

SourceKind = Literal["folder", "csv", "parquet", "npz", "archive", "toml", "image"]
KINDS: tuple[SourceKind, ...] = ("folder", "csv", "parquet", "npz", "archive")
"""Kinds that a person may name, as in csv:PATH."""
MAX_UNPACKED_BYTES = 2**33  # of all files in an archive
MAX_ARCHIVE_FILES = 2_000_000
MAX_MEMBER_BYTES = 2**26  # of one image in an archive
CHUNK_BYTES = 2**20
# Raised for a damaged archive.
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, NotImplementedError)
# Files and folders that systems and tools leave behind, in lower case; hidden ones start with a dot.
JUNK_NAMES = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("$recycle.bin", "system volume information", "#recycle", "@eadir", "@tmp", "lost+found"),
    *("__pycache__", "ipynb_checkpoints"),
}


@dataclass(frozen=True)
class FileTree:
    """The files and folders below a source, as relative paths with `/`, in the order of their names.

    `junk` counts files that a system left behind; they are not listed. `open_file` opens a listed file.
    """

    location: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    junk: int
    open_file: Callable[[str], BinaryIO]

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        with self.open_file(name) as file:
            return file.read()


def is_junk(name: str) -> bool:
    """Return True if a part of the path is hidden, or is known as a system's own."""
    return any(part.startswith(".") or part.lower() in JUNK_NAMES for part in name.split("/"))


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
    with suppress(*ARCHIVE_ERRORS, OSError):
        if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
            return "archive"
    return "csv"


def check_kind(path: Path, kind: SourceKind | None = None) -> SourceKind:
    """Return the kind of a source; raise if nothing is there, or a folder for a file, or a file for a folder.

    A folder of tables is right for `csv` and `parquet`.
    """
    if not path.exists():
        raise NotFoundError(f"{path} does not exist")
    kind = kind or recognize_kind(path)
    if kind in ("csv", "parquet") and path.is_dir():
        suffixes = tuple(suffix for suffix in TABLE_SUFFIXES if (suffix == ".parquet") == (kind == "parquet"))
        kind = "folder" if any(name.lower().endswith(suffixes) for name in walk(path)) else kind
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        expected = "folder" if kind == "folder" else "file"
        hint = f"; did you mean {recognize_kind(path)}:{path}" if path.is_dir() or path.is_file() else ""
        raise DataError(
            f"{path} is not a {expected}, accepted: {kind}:PATH with the path of a {expected}{hint}"
        )
    return kind


@contextmanager
def open_tree(path: Path) -> Iterator[FileTree]:
    """Open a folder, zip or tar; raise DataError for an archive that is damaged or too large."""
    with ExitStack() as stack:
        if path.is_dir():
            files, folders = list_folder(path, skip_junk=True)
            yield _build_tree(path, files, folders, lambda name: (path / name).open("rb"))
        elif zipfile.is_zipfile(path):
            yield _open_zip(path, stack)
        else:
            yield _open_tar(path, stack)


def _build_tree(
    path: Path, files: list[str], folders: list[str], open_file: Callable[[str], BinaryIO]
) -> FileTree:
    visible = [name for name in files if not is_junk(name)]
    for name in visible:
        if any("\ud800" <= char <= "\udfff" for char in name):  # how Python holds bytes that are not UTF-8
            raise DataError(f"{path}: the name of the file {name!a} is not UTF-8, accepted: UTF-8 names")
    holders = [PurePosixPath(folder) for folder in {name.rpartition("/")[0] for name in visible}]
    parents = {str(folder) for holder in holders for folder in (holder, *holder.parents)} - {".", "/"}
    shown = {name for name in parents.union(folders) if not is_junk(name)}
    junk = len(files) - len(visible)
    return FileTree(path, _sort(visible), _sort(shown), junk, open_file)


def _sort(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: name.split("/")))


def walk(root: Path) -> tuple[str, ...]:
    """List all files below a folder in the order of their names, hidden ones too."""
    return _sort(list_folder(root)[0])


def list_folder(root: Path, skip_junk: bool = False) -> tuple[list[str], list[str]]:
    """List files and folders below `root`; links are followed, but not into a folder that holds them.

    With `skip_junk` hidden folders are not entered, and count as files.
    """
    files, folders = list[str](), list[str]()
    pending = [(root, "", frozenset({root.resolve()}))]
    while pending:
        folder, prefix, ancestors = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = prefix + entry.name
                if skip_junk and is_junk(entry.name):
                    files.append(name)
                elif entry.is_dir():
                    target = Path(entry.path).resolve()
                    folders.append(name)
                    if target not in ancestors:
                        pending.append((Path(entry.path), f"{name}/", ancestors | {target}))
                elif entry.is_file() or (entry.is_symlink() and Path(name).suffix.lower() in IMAGE_SUFFIXES):
                    files.append(name)  # an image behind a broken link is a damaged one
    return files, folders


def _open_zip(path: Path, stack: ExitStack) -> FileTree:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (*ARCHIVE_ERRORS, ValueError) as error:
        raise DataError(f"{path} is not a valid zip file: {error}") from None
    entries = {entry.filename.replace("\\", "/"): entry for entry in archive.infolist()}
    files = {name: entry for name, entry in entries.items() if not name.endswith("/")}
    _check_bounds(path, len(entries), sum(entry.file_size for entry in files.values()))
    if any(entry.flag_bits & 1 for entry in files.values()):
        raise DataError(f"{path} is encrypted, accepted: a zip without a password")

    def open_file(name: str) -> BinaryIO:
        try:
            with archive.open(files[name]) as file:
                return BytesIO(_read_bounded(file, name))
        except ARCHIVE_ERRORS as error:
            raise DataError(f"{name}: the archive is damaged here: {error}") from None

    folders = [name.rstrip("/") for name in entries if name.endswith("/")]
    return _build_tree(path, list(files), folders, open_file)


def _open_tar(path: Path, stack: ExitStack) -> FileTree:
    """Index a tar; a compressed one is unpacked to an unnamed temporary file, for access in any order."""
    try:
        # It recognizes the compression, and the stack closes it.
        archive = stack.enter_context(tarfile.open(path))  # noqa: SIM115
        if not isinstance(archive.fileobj, BufferedReader):
            content = stack.enter_context(_unpack(path, cast(IO[bytes], archive.fileobj)))
            archive = stack.enter_context(tarfile.TarFile(fileobj=content))
        members = archive.getmembers()
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path} is not a valid tar file: {error}") from None
    files = {member.name.removeprefix("./"): member for member in members if member.isfile()}
    _check_bounds(path, len(members), sum(member.size for member in files.values()))
    lock = threading.Lock()

    def open_file(name: str) -> BinaryIO:
        with lock, cast(IO[bytes], archive.extractfile(files[name])) as file:
            return BytesIO(_read_bounded(file, name))

    folders = [member.name.removeprefix("./") for member in members if member.isdir()]
    return _build_tree(path, list(files), [name for name in folders if name.strip("./")], open_file)


@contextmanager
def _unpack(path: Path, packed: IO[bytes]) -> Iterator[IO[bytes]]:
    """Copy the content of a compressed file, from its start, to a temporary file."""
    with tempfile.TemporaryFile() as content:
        packed.seek(0)
        while chunk := packed.read(CHUNK_BYTES):
            content.write(chunk)
            _check_bounds(path, 1, content.tell())
        content.seek(0)
        yield content


def _check_bounds(path: Path, count: int, unpacked_bytes: int) -> None:
    if count > MAX_ARCHIVE_FILES:
        raise DataError(f"{path} holds {count:,} files, accepted: up to {MAX_ARCHIVE_FILES:,}")
    if unpacked_bytes > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{path} unpacks to {unpacked_bytes:,} bytes or more, accepted: up to {MAX_UNPACKED_BYTES:,}"
        )


def _read_bounded(file: IO[bytes], name: str) -> bytes:
    """Read up to MAX_MEMBER_BYTES of a member, whatever size it declares."""
    content = file.read(MAX_MEMBER_BYTES + 1)
    if len(content) > MAX_MEMBER_BYTES:
        raise DataError(f"{name} unpacks to more than {MAX_MEMBER_BYTES:,} bytes")
    return content
