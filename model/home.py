"""Where things live, read from the environment at the moment of the call."""

import os
from dataclasses import dataclass
from pathlib import Path


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
        root = Path(os.environ.get("RELEARN_HOME") or ".relearn").expanduser().absolute()
        data = os.environ.get("RELEARN_DATA")
        return cls(root, Path(data).expanduser().absolute() if data else root / "data")

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
    def eda(self) -> Path:
        return self.root / "eda"

    def releases(self, name: str) -> Path:
        return self.root / "releases" / name
