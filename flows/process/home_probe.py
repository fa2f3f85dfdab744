"""A probe of the home: what a run needs of its file system is tried before anything is imported."""

import errno
import os
import secrets
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from relearn.model.errors import InfrastructureError
from relearn.model.file_lock import locked
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

# What a run writes into rather than replaces: folders, databases with their journals, locks, logs.
WRITTEN_IN_PLACE = (
    *("*/", "artifacts/*/", "releases/*/", "*.db", "*.db-*", "*/*.db", "*/*.db-*"),
    *(".*.lock", "*/.*.lock", "releases/*/.lock", "prefect/*.log"),
)
PROBE_CONTENT = bytes(65_536)  # more than fits on a full disk
HOME_FIX = "set RELEARN_HOME to a folder on a local disk"
OWNER_FIX = "make this user the owner (chown -R), or set RELEARN_HOME and BENTOML_HOME to other folders"


def check_home(home: Home) -> None:
    """Create the home if it is not there, and raise `InfrastructureError` if a run could not use it."""
    home.root.mkdir(parents=True, exist_ok=True)
    unwritable_paths = list_unwritable(home)
    try:
        probe_file_system(home.root)
    except OSError as error:
        # Of a full disk the run names what it could not write.
        if not unwritable_paths and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    if unwritable_paths:
        others = f" and {len(unwritable_paths) - 1} more" if len(unwritable_paths) > 1 else ""
        raise InfrastructureError(
            f"this user may not write to {unwritable_paths[0]}{others}: {OWNER_FIX}; see relearn doctor"
        )


def list_unwritable(home: Home) -> list[Path]:
    """List the folders and files of `home` that a run writes into and this user may not write to."""
    paths = {home.root, *(path for pattern in WRITTEN_IN_PLACE for path in home.root.glob(pattern))}
    return sorted(
        path
        for path in paths
        if os.path.lexists(path) and not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))
    )


def probe_file_system(folder: Path) -> None:
    """Write, sync, rename, lock and set the mode of a file in `folder`, and make a database; delete them.

    Raises `InfrastructureError` for what the file system refuses, `OSError` if a file cannot be written.
    """
    probe_folder = folder / f".probe.{secrets.token_hex(6)}.tmp"
    probe_folder.mkdir()
    try:
        write_bytes_atomically(probe_folder / "file", PROBE_CONTENT)
        try:
            (probe_folder / "file").chmod(0o644)  # as MLflow does with every file that it stores
        except OSError as error:
            raise InfrastructureError(
                f"{folder}: its file system sets no modes of files (chmod: {error.strerror}), as vfat and"
                f" some CIFS mounts; {HOME_FIX}"
            ) from None
        with locked(probe_folder / ".lock", "the probe"):
            pass
        try:
            with closing(sqlite3.connect(probe_folder / "probe.db", timeout=0.5)) as database:
                database.execute("create table probe (number)")
                database.commit()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
            raise InfrastructureError(
                f"{folder}: its file system keeps no SQLite database ({error}), since it has no locks or"
                f" syncs no files; {HOME_FIX}"
            ) from None
    finally:
        shutil.rmtree(probe_folder, ignore_errors=True)
