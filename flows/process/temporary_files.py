"""The folder of a process for its temporary files.

`tempfile`, here and in child processes, writes there. It is deleted at the exit of the process, or after a
kill by the next process that looks for such folders.
"""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from relearn.model.files import is_stale
from relearn.model.process_identity import find_process, identify_process

PREFIX = "relearn-tmp-"
OWNER_FILE = ".process"  # in the folder: the identity of its process


def use_own_folder() -> None:
    """Create the folder of this process, unless it has one, and make `tempfile` use it."""
    if _is_own(Path(tempfile.gettempdir())):
        return
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    (folder / OWNER_FILE).write_text(identify_process())
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def remove_orphaned_folders() -> None:
    """Delete the folders of processes that are gone, and, after a day, of those that cannot be seen."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, or deleted meanwhile
            owner = folder / OWNER_FILE
            process = find_process(owner.read_text()) if owner.exists() else "unseen"
            if process == "gone" or (process == "unseen" and is_stale(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    with suppress(OSError):
        return (folder / OWNER_FILE).read_text() == identify_process()
    return False
