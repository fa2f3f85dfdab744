"""Which form the database of MLflow or Prefect has, and which forms the installed program knows.

Both number the forms by Alembic's revisions. These are read from the files of the program and not by
importing it: it may be what does not work.
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
    """The revisions that a program knows, and the newest of them, which it works with."""

    revisions: frozenset[str]
    head: str

    @classmethod
    def from_package(cls, package: str, folder: str) -> "KnownRevisions":
        """Read what `program` brings in `folder`; raises `FileNotFoundError` where it is not installed."""
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
    """The revision of the database at `uri`; None where it has none. Raises what SQLAlchemy raises."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            row = connection.execute(sqlalchemy.text("select version_num from alembic_version")).first()
            return str(row[0]) if row else None
    finally:
        engine.dispose()
