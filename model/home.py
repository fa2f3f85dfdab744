"""Paths of the home folder, read from the environment on each call."""

import os
import re
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relearn.model.errors import UserInputError

# Environment variable: URL of MLflow's UI, if it differs from the tracking server's URL.
MLFLOW_UI_URL = "RELEARN_MLFLOW_UI_URL"

# The surrogates at the end stand for bytes that are not UTF-8.
UNUSABLE_CHARACTERS = re.compile(r"[?$\x00-\x1f\x7f\ud800-\udfff]")

MAX_PATH_BYTES = 440  # SQLite opens no file with a path of 512 bytes; the longest in a home has 70 more


@dataclass(frozen=True)
class Home:
    """Folder with all state of one installation; deleting it resets everything.

    `RELEARN_HOME` is its path (default `./.relearn`); `RELEARN_DATA` is the folder of torchvision's files
    (default `data` inside the home). Reading a path creates no folder.
    """

    root: Path
    data: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Read `RELEARN_HOME` and `RELEARN_DATA`.

        Raises `UserInputError` for a path to a file, a broken link, with unusable characters, or too long.
        """
        root = _folder_from_variable("RELEARN_HOME") or working_folder() / ".relearn"
        if UNUSABLE_CHARACTERS.search(str(root)):
            raise UserInputError(
                f"RELEARN_HOME: got {str(root)!r}, accepted: a UTF-8 path without ?, $ and control "
                "characters, which databases and BentoML would misread"
            )
        if (path_bytes := len(os.fsencode(root))) > MAX_PATH_BYTES:
            raise UserInputError(
                f"RELEARN_HOME: got a path of {path_bytes} bytes, {str(root)[:100]!r}…, accepted: at most"
                f" {MAX_PATH_BYTES}, since SQLite opens no longer ones"
            )
        try:
            is_folder = stat.S_ISDIR(root.stat().st_mode)
        except FileNotFoundError:
            is_folder = not root.is_symlink()  # a new home is made later
        except OSError as error:
            raise UserInputError(
                f"RELEARN_HOME: {str(root)[:200]!r} cannot be used: {error.strerror}; accepted: a folder that"
                " this user may enter"
            ) from None
        if not is_folder:
            kind = "a broken link" if root.is_symlink() else "which is a file"
            raise UserInputError(f"RELEARN_HOME: got {str(root)!r}, {kind}; accepted: a folder")
        return cls(root, _folder_from_variable("RELEARN_DATA") or root / "data")

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking URI: `MLFLOW_TRACKING_URI`, else SQLite in the home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(self.root / "mlflow.db")

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def prefect(self) -> Path:
        return Path(os.environ.get("PREFECT_HOME") or self.root / "prefect")

    @property
    def bentoml(self) -> Path:
        return Path(os.environ.get("BENTOML_HOME") or self.root / "bentoml")

    @property
    def dataset_cache(self) -> Path:
        return self.root / "datasets"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints: a folder per unfinished training run."""
        return self.root / "checkpoints"

    @property
    def backbones(self) -> Path:
        """Weights of pretrained backbones, and the features of images; both can be computed again."""
        return self.root / "backbones"

    @property
    def eda(self) -> Path:
        return self.root / "eda"

    def releases_dir(self, model_name: str) -> Path:
        return self.root / "releases" / model_name

    def prediction_log_dir(self, model_name: str) -> Path:
        return self.root / "predictions" / model_name

    def monitoring_dir(self, model_name: str) -> Path:
        """Folder of the last monitoring report and of the alerts already emitted."""
        return self.root / "monitoring" / model_name

    def feedback_dir(self, model_name: str) -> Path:
        """Folder of the decisions about user feedback."""
        return self.root / "feedback" / model_name


def sqlite_url(file: Path) -> str:
    """Return SQLAlchemy's URL of an SQLite database; `file` is an absolute path without a `?`."""
    return f"sqlite:///{file}"


def disk_usage(path: Path) -> int:
    """Return the bytes of a file or of all files under a folder; files deleted meanwhile count as 0."""
    total_bytes = 0
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            total_bytes += file.stat().st_size if file.is_file() else 0
    return total_bytes


def measure_free_bytes(path: Path) -> int | None:
    """Return the free bytes of the disk of `path`, which may not exist; None if it has or tells no size."""
    try:
        usage = shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists()))
    except OSError:  # refused by a container
        return None
    return usage.free if usage.total else None


def working_folder() -> Path:
    """Return the current folder; raise `UserInputError` if it was removed or this user may not enter it."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        raise UserInputError("the current folder was deleted; change to another one") from None
    if not os.access(folder, os.X_OK):
        raise UserInputError(f"this user may not enter the current folder {folder}; change to another one")
    return folder


def _folder_from_variable(variable: str) -> Path | None:
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        folder = Path(value).expanduser()
    except RuntimeError:
        raise UserInputError(
            f"{variable}: got {value!r}, there is no such user; accepted: a folder"
        ) from None
    return folder if folder.is_absolute() else working_folder() / folder
