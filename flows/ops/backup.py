"""`relearn home backup`: copies a home, which may be in use, to a tar file.

The file holds all that cannot be made or downloaded again. Whatever names other files is copied before them:
ledgers, databases and decisions about feedback come first. So nothing in a backup names a missing file.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict

from relearn.flows.process.environment import redact_password
from relearn.flows.releases.prune import PRUNE_LOCK
from relearn.model.errors import CorruptDataError, InfrastructureError, UserInputError
from relearn.model.file_lock import (
    DATABASE_FIX,
    DATABASE_TIMEOUT_SECONDS,
    describe_locked_database,
    locked,
)
from relearn.model.files import find_stale_temp_files, new_file, remove_atomically
from relearn.model.home import Home, sqlite_url
from relearn.serving.releases.store import LEDGER_FOLDER, ReleaseStore, list_released_names

SUFFIX = ".tar"
MANIFEST_FILE = "backup.json"
SQLITE_HEADER = b"SQLite format 3\0"
COPIED_FIRST = ("mlflow.db", "prefect/prefect.db", "feedback", "predictions")  # after the ledgers
# Folders that can be made or downloaded again, or that belong to running processes.
LEFT_OUT = frozenset(
    {"data", "datasets", "backbones", "eda", "matplotlib", "torchinductor", ".cache"}
    | {"up", "servers", "prefect/ui", "bentoml/tmp"}
)
LEFT_OUT_NAMES = re.compile(r".*\.lock|\..*\.tmp|.*\.db-(wal|shm|journal)|temporary_server\.log")
LEDGER_ENTRY = re.compile(rf"releases/[^/]+/{LEDGER_FOLDER}/.*")  # these are copied first, up to the last
PRUNE_TIMEOUT_SECONDS = 600.0  # for a prune to end; it takes seconds


class Manifest(BaseModel):
    """The last member of a backup: when and of which home it was made, and the SHA-256 of each file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    relearn: str
    made_at: AwareDatetime
    home: str
    sha256: dict[str, str]


def back_up(home: Home, file: Path) -> Manifest:
    """Copy `home` to the new file `file`, which exists only once it is complete.

    Raises `UserInputError` for a file that exists, has another suffix, or lies in the home,
    `CorruptDataError` for a damaged ledger or database, `InfrastructureError` for a locked database.
    """
    file = file.absolute()
    if file.suffix != SUFFIX:
        raise UserInputError(f"file: got {file.name!r}, accepted: a name that ends in {SUFFIX}")
    if not home.root.is_dir():
        raise UserInputError(f"RELEARN_HOME: got {str(home.root)!r}, which does not exist; accepted: a home")
    if file.resolve().is_relative_to(home.root.resolve()):
        raise UserInputError(f"file: got {str(file)!r}, accepted: a place outside of the home {home.root}")
    exists_error = UserInputError(f"file: {file} exists already, accepted: a new file")
    if os.path.lexists(file):
        raise exists_error
    try:
        with _prevent_prune(home), new_file(file) as temp_file:
            for leftover in find_stale_temp_files(file.parent, f".*{SUFFIX}.*.tmp"):  # of killed backups
                remove_atomically(leftover)
            temp_file.touch(0o600)  # it holds images that users have sent
            with (
                tarfile.open(temp_file, "w", format=tarfile.PAX_FORMAT) as archive,
                tempfile.TemporaryDirectory(".tmp", f".{file.name}.", file.parent) as temp_folder,
            ):
                return _add_all(archive, home, Path(temp_folder) / "copy.db")
    except FileExistsError:
        raise exists_error from None


def list_outside(home: Home) -> list[str]:
    """Return the stores of this home that lie elsewhere: a backup of the home does not hold them."""
    own_store = sqlite_url(home.root / "mlflow.db")
    stores = [home.tracking_uri if home.tracking_uri != own_store else "", os.environ.get("PREFECT_API_URL")]
    folders = (home.prefect, home.bentoml)
    stores += [str(folder) for folder in folders if not folder.is_relative_to(home.root)]
    return [redact_password(store) for store in stores if store]


def _prevent_prune(home: Home) -> AbstractContextManager[None]:
    """Lock the home against a prune: it would delete files that a database, copied before, still names."""
    if not os.access(home.root, os.W_OK):
        return nullcontext()  # no prune either
    busy_message = f"relearn home prune, or another backup, runs in {home.root}"
    return locked(home.root / PRUNE_LOCK, busy_message, PRUNE_TIMEOUT_SECONDS)


def _add_all(archive: tarfile.TarFile, home: Home, database_copy: Path) -> Manifest:
    """Write all members of the backup of `home`; databases are copied to `database_copy` first."""
    digests: dict[str, str] = {}
    for path in _list_in_order(home):
        name = path.relative_to(home.root).as_posix()
        with suppress(FileNotFoundError):  # deleted meanwhile, such as the oldest part of a prediction log
            if path.is_dir():
                archive.addfile(_make_member(name, path.stat(), tarfile.DIRTYPE))
            elif path.is_file() and name not in digests:
                if is_database := _is_database(path):
                    _copy_database(path, database_copy)
                digests[name] = _add_file(archive, name, database_copy if is_database else path)
    manifest = Manifest(
        relearn=version("relearn"), made_at=datetime.now(UTC), home=str(home.root), sha256=digests
    )
    content = json.dumps(manifest.model_dump(mode="json"), indent=1).encode()
    member = tarfile.TarInfo(MANIFEST_FILE)
    member.size, member.mtime = len(content), int(manifest.made_at.timestamp())
    archive.addfile(member, io.BytesIO(content))
    return manifest


def _list_in_order(home: Home) -> Iterator[Path]:
    """Yield the files and folders of a backup: whatever names others comes before them; some come twice."""
    for name in list_released_names(home):
        ledger = ReleaseStore(home.releases_dir(name)).ledger
        yield from [ledger.entry_path(number) for number in range(1, ledger.count_entries() + 1)]
    for name in COPIED_FIRST:
        yield from _walk(home.root / name, home.root)
    yield from _walk(home.root, home.root)


def _walk(path: Path, root: Path) -> Iterator[Path]:
    """Yield `path` and all below it that a backup holds, also behind links.

    Raises `InfrastructureError` for a link that leads nowhere or in a circle.
    """
    name = path.relative_to(root).as_posix()
    if name in LEFT_OUT or LEFT_OUT_NAMES.fullmatch(path.name) or LEDGER_ENTRY.fullmatch(name):
        return
    if path.is_symlink():
        target, real_root = path.resolve(), root.resolve()
        if not target.exists():
            raise InfrastructureError(f"{path} is a link to {path.readlink()}, which does not exist")
        if target.is_relative_to(real_root) or real_root.is_relative_to(target):
            raise InfrastructureError(f"{path} is a link to a folder or file of the home; remove it")
    if path != root:
        yield path
    if path.is_dir():
        for child in sorted(path.iterdir()):
            yield from _walk(child, root)


def _is_database(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(SQLITE_HEADER)) == SQLITE_HEADER


def _copy_database(file: Path, copy_file: Path) -> None:
    """Copy an SQLite database as it is between two transactions, and check the copy."""
    copy_file.unlink(missing_ok=True)
    url = f"file:{quote(str(file))}?mode=ro"
    try:
        with (
            closing(sqlite3.connect(url, timeout=DATABASE_TIMEOUT_SECONDS, uri=True)) as database,
            closing(sqlite3.connect(copy_file)) as copy,
        ):
            database.backup(copy)
            ((problem,),) = copy.execute("pragma quick_check(1)").fetchall()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            raise InfrastructureError(f"{describe_locked_database(file)}; {DATABASE_FIX}") from None
        problem = str(error)
    if problem != "ok":
        raise CorruptDataError(f"{file} is damaged, so it cannot be copied: {' '.join(problem.split())}")
    shutil.copystat(file, copy_file)


def _add_file(archive: tarfile.TarFile, name: str, file: Path) -> str:
    """Add a file with its present size, since a log may grow meanwhile; return its SHA-256."""
    with file.open("rb") as content:
        hashed = HashedReader(content)
        archive.addfile(_make_member(name, os.fstat(content.fileno()), tarfile.REGTYPE), hashed)
    return hashed.sha256.hexdigest()


def _make_member(name: str, status: os.stat_result, member_type: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = member_type, stat.S_IMODE(status.st_mode), int(status.st_mtime)
    member.size = status.st_size if member_type == tarfile.REGTYPE else 0
    return member


class HashedReader(io.RawIOBase):
    """A stream whose content is hashed while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self.sha256.update(content)
        return content
