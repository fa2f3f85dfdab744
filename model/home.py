"""Where things live, read from the environment at the moment of the call."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.errors import InputError

# Environment variable: where people find MLflow's page, if not where programs find its server.
RUNS_PAGE = "RELEARN_RUNS_PAGE"


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
        """Raises `InputError` for a `~user` that is not there."""
        root = _folder("RELEARN_HOME") or Path(".relearn").absolute()
        return cls(root, _folder("RELEARN_DATA") or root / "data")

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: `MLFLOW_TRACKING_URI` where it is set, else SQLite in the home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

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
    def prepared(self) -> Path:
        return self.root / "prepared"

    @property
    def checkpoints(self) -> Path:
        """One folder a run whose training is not finished."""
        return self.root / "checkpoints"

    @property
    def eda(self) -> Path:
        return self.root / "eda"

    def releases(self, name: str) -> Path:
        return self.root / "releases" / name

    def records(self, name: str) -> Path:
        """What was asked and answered under a name."""
        return self.root / "records" / name

    def watch(self, name: str) -> Path:
        """What the monitor of a name has seen last, and when it asked for what."""
        return self.root / "watch" / name

    def feedback(self, name: str) -> Path:
        """What was decided about the feedback under a name."""
        return self.root / "feedback" / name


def disk_use(path: Path) -> int:
    """Bytes of a file, or of the files under a folder; what goes meanwhile counts for nothing."""
    total = 0
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _folder(variable: str) -> Path | None:
    named = os.environ.get(variable)
    if not named:
        return None
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        raise InputError(f"{variable}: got {named!r}, there is no such user; accepted: a folder") from None
