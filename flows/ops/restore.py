"""`relearn home restore`: makes a home from a backup, at any place."""

import json
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from pydantic import ValidationError
from rich.filesize import decimal

from relearn.flows.ops.backup import MANIFEST_FILE, HashedReader, Manifest
from relearn.model.errors import CorruptDataError, InfrastructureError, UserInputError
from relearn.model.files import atomic_folder
from relearn.model.home import Home, measure_free_bytes

MAX_MANIFEST_BYTES = 2**28  # 256 MB: about two million files


def restore(home: Home, file: Path) -> Manifest:
    """Make the absent or empty `home` from the backup `file`: all of it or nothing.

    Raises `UserInputError` for another home or no file, `CorruptDataError` for a backup that was cut off,
    changed, or holds anything but files and folders below the home, `InfrastructureError` for a full disk.
    """
    if not file.is_file():
        raise UserInputError(
            f"file: got {str(file)!r}, which is no file; accepted: one of relearn home backup"
        )
    if home.root.exists() and any(home.root.iterdir()):
        raise UserInputError(
            f"RELEARN_HOME: got {str(home.root)!r}, which is not empty; accepted: a new or an empty folder"
        )
    if home.root.is_mount():
        raise UserInputError(
            f"RELEARN_HOME: got {str(home.root)!r}, a mount point; accepted: a folder that can be renamed"
        )
    size, free_bytes = file.stat().st_size, measure_free_bytes(home.root)
    if free_bytes is not None and free_bytes < size:
        raise InfrastructureError(
            f"the disk of {home.root} has {decimal(free_bytes)} free, the backup needs {decimal(size)}"
        )
    with atomic_folder(home.root, replace=False) as folder:
        try:
            with tarfile.open(file, "r:") as archive:
                return _extract(archive, folder)
        except (tarfile.TarError, FileExistsError, NotADirectoryError) as error:
            raise CorruptDataError(f"{file} is no complete backup: {error}") from None
        except CorruptDataError as error:
            raise CorruptDataError(f"{file} is no complete backup: {error}") from None


def _extract(archive: tarfile.TarFile, folder: Path) -> Manifest:
    """Write all members into `folder`; compare their SHA-256 with those of the manifest, the last member."""
    digests: dict[str, str] = {}
    for member in archive:
        if member.name == MANIFEST_FILE and member.isreg():
            manifest = _read_manifest(archive, member)
            break
        if member.isdir():
            path = _place(folder, member.name)
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(member.mode & 0o777)
        elif member.type == tarfile.REGTYPE and member.sparse is None:
            digests[member.name] = _extract_file(archive, member, _place(folder, member.name))
        else:
            raise CorruptDataError(f"{member.name!r} is neither a file nor a folder")
    else:
        raise CorruptDataError("its end is missing")
    changed = sorted(
        name for name in {*digests, *manifest.sha256} if digests.get(name) != manifest.sha256.get(name)
    )
    if changed:
        raise CorruptDataError(f"{changed[0]!r} is missing, or its SHA-256 differs")
    return manifest


def _place(folder: Path, name: str) -> Path:
    """Return the path of a member below `folder`; raise `CorruptDataError` for one elsewhere."""
    path = PurePosixPath(name)
    if not path.name or path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name:
        raise CorruptDataError(f"the name {name!r} leads out of the home")
    return folder / path


def _extract_file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    """Write a file with its mode and time; return its SHA-256."""
    source = archive.extractfile(member)
    assert source is not None  # noqa: S101  # since it is a regular file
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("xb") as target:
        hashed = HashedReader(source)
        shutil.copyfileobj(hashed, target)
    path.chmod(member.mode & 0o777)
    os.utime(path, (member.mtime, member.mtime))
    return hashed.sha256.hexdigest()


def _read_manifest(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Manifest:
    source = archive.extractfile(member)
    if source is None or member.size > MAX_MANIFEST_BYTES:
        raise CorruptDataError(f"its {MANIFEST_FILE} is too large")
    try:
        return Manifest.model_validate(json.loads(source.read()))
    except (ValueError, ValidationError) as error:
        raise CorruptDataError(f"its {MANIFEST_FILE} cannot be read: {str(error).splitlines()[0]}") from None
