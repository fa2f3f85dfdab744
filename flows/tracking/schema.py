"""Alembic revisions: the one a MLflow or Prefect database is at, and those the installed package ships.

The shipped revisions are read from the package's files, without an import, which may fail.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

MLFLOW_MIGRATIONS = "mlflow", "store/db_migrations/versions"
PREFECT_MIGRATIONS = "prefect", "server/database/_migrations/versions/sqlite"


@dataclass(frozen=True)
class KnownRevisions:
    """The revisions that an installed package ships; `head` is the newest, which the package requires."""

    revisions: frozenset[str]
    head: str

    @classmethod
    def from_package(cls, package: str, folder: str) -> "KnownRevisions":
        """Read the migrations in `folder` of `package`; raises `FileNotFoundError` if it is not installed."""
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"{package} is not installed")
        sources = [file.read_text() for file in Path(spec.submodule_search_locations[0], folder).glob("*.py")]
        revisions = {
            revision_id for text in sources for revision_id in re.findall(r'^revision = "(\w+)"', text, re.M)
        }
        down_revisions = {
            revision_id
            for text in sources
            for revision_id in re.findall(r'^down_revision = "(\w+)"', text, re.M)
        }
        (head,) = revisions - down_revisions
        return cls(frozenset(revisions), head)


def read_current_revision(uri: str) -> str | None:
    """Return the revision of the database at `uri`, None if it has none; raises SQLAlchemy's errors."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            row = connection.execute(sqlalchemy.text("select version_num from alembic_version")).first()
            return str(row[0]) if row else None
    finally:
        engine.dispose()
