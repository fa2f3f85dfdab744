"""The files of a source: a folder, or a zip or tar archive that is read in place."""

import os
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from relearn.model.errors import DataError

MAX_UNPACKED_BYTES = 2**33  # of all files in an archive
MAX_ARCHIVE_FILES = 2_000_000
MAX_MEMBER_BYTES = 2**26  # of one image in an archive
CHUNK_BYTES = 2**20
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


def is_archive(path: Path) -> bool:
    """Return True for a zip or tar file, by its content."""
    return zipfile.is_zipfile(path) or _is_tar(path)


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
    all_folders = {
        *folders,
        *("/".join(name.split("/")[:depth]) for name in visible for depth in range(1, name.count("/") + 1)),
    }
    return FileTree(
        path,
        tuple(sorted(visible, key=_sort_key)),
        tuple(sorted((name for name in all_folders if not is_junk(name)), key=_sort_key)),
        len(files) - len(visible),
        open_file,
    )


def _sort_key(name: str) -> list[str]:
    return name.split("/")


def walk(root: Path) -> list[str]:
    """List all files below a folder in the order of their names, hidden ones too."""
    return sorted(list_folder(root)[0], key=_sort_key)


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
                elif entry.is_file():
                    files.append(name)
    return files, folders


def _open_zip(path: Path, stack: ExitStack) -> FileTree:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
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
        except (zipfile.BadZipFile, zlib.error, LZMAError, NotImplementedError, EOFError) as error:
            raise DataError(f"{name}: the archive is damaged here: {error}") from None

    folders = [name.rstrip("/") for name in entries if name.endswith("/")]
    return _build_tree(path, list(files), folders, open_file)


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path):
            return True
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError):
        return False


def _open_tar(path: Path, stack: ExitStack) -> FileTree:
    """Index a tar; a compressed one is unpacked to an unnamed temporary file, for access in any order."""
    try:
        with tarfile.open(path):  # recognizes the compression
            pass
        content = stack.enter_context(_decompress(path))
        archive = stack.enter_context(tarfile.TarFile(fileobj=content))
        members = archive.getmembers()
    except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
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
def _decompress(path: Path) -> Iterator[BinaryIO]:
    import bz2
    import gzip
    import lzma

    with path.open("rb") as file:
        head = file.read(6)
        openers: dict[bytes, Callable[[Path], Any]] = {
            b"\x1f\x8b": gzip.open,
            b"BZ": bz2.open,
            b"\xfd7": lzma.open,
        }
        opener = openers.get(head[:2])
        file.seek(0)
        if opener is None:
            yield file
            return
        with cast(BinaryIO, opener(path)) as packed, tempfile.TemporaryFile() as unpacked:
            size = 0
            while chunk := packed.read(CHUNK_BYTES):
                size += len(chunk)
                _check_bounds(path, 1, size)
                unpacked.write(chunk)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)


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
