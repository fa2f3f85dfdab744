"""Where things live, read from the environment at the moment of the call."""

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relearn.model.errors import UserInputError

# Environment variable: where people find MLflow's page, if not where programs find its server.
MLFLOW_UI_URL = "RELEARN_MLFLOW_UI_URL"

UNUSABLE_CHARACTERS = re.compile(
    r"[?$\x00-\x1f\x7f\ud800-\udfff]"
)  # the last of these stand for bytes that are no UTF-8


@dataclass(frozen=True)
class Home:
    """One folder that holds all state: delete it and nothing remembers anything.

    `RELEARN_HOME` names it (default `./.relearn`); `RELEARN_DATA` names where torchvision finds or
    puts its files (default `data` inside the home). No folder is made by asking for its path.
    """

    root: Path
    data: Path

    @classmethod
    def from_environment(cls) -> "Home":
        """Raises `InputError` for a path that is no folder, or that databases or BentoML would misread."""
        root = _folder_from_variable("RELEARN_HOME") or working_folder() / ".relearn"
        if UNUSABLE_CHARACTERS.search(str(root)):
            raise UserInputError(
                f"RELEARN_HOME: got {str(root)!r}, accepted: a path without ?, $, control characters and "
                "bytes that are no UTF-8: databases and BentoML would take it for another one"
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
            kind = "a link to nothing" if root.is_symlink() else "which is a file"
            raise UserInputError(f"RELEARN_HOME: got {str(root)!r}, {kind}; accepted: a folder")
        return cls(root, _folder_from_variable("RELEARN_DATA") or root / "data")

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: `MLFLOW_TRACKING_URI` where it is set, else SQLite in the home."""
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
        """One folder a run whose training is not finished."""
        return self.root / "checkpoints"

    @property
    def eda(self) -> Path:
        return self.root / "eda"

    def releases_dir(self, name: str) -> Path:
        return self.root / "releases" / name

    def prediction_log_dir(self, name: str) -> Path:
        """What was asked and answered under a name."""
        return self.root / "predictions" / name

    def monitoring_dir(self, name: str) -> Path:
        """What the monitor of a name has seen last, and when it asked for what."""
        return self.root / "monitoring" / name

    def feedback_dir(self, name: str) -> Path:
        """What was decided about the feedback under a name."""
        return self.root / "feedback" / name


def sqlite_url(file: Path) -> str:
    """SQLAlchemy's URL of an SQLite database in `file`, an absolute path without a `?`."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(file)).render_as_string()


def disk_usage(path: Path) -> int:
    """Bytes of a file, or of the files under a folder; what goes meanwhile counts for nothing."""
    total_bytes = 0
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            total_bytes += file.stat().st_size if file.is_file() else 0
    return total_bytes


def working_folder() -> Path:
    """Return the current folder; raise `UserInputError` if it was removed or this user may not enter it."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        raise UserInputError("the current folder was removed; change to another one") from None
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
