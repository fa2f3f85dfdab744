"""Which form the database of MLflow or Prefect has, and which forms the installed program knows.

Both number the forms by Alembic's revisions. These are read from the files of the program and not by
importing it: it may be what does not work.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy

MLFLOW = "mlflow", "store/db_migrations/versions"
PREFECT = "prefect", "server/database/_migrations/versions/sqlite"


@dataclass(frozen=True)
class Known:
    """The revisions that a program knows, and the newest of them, which it works with."""

    all: frozenset[str]
    newest: str

    @classmethod
    def of(cls, program: str, folder: str) -> "Known":
        """Read what `program` brings in `folder`; raises `FileNotFoundError` where it is not installed."""
        spec = importlib.util.find_spec(program)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(f"{program} is not installed")
        texts = [file.read_text() for file in Path(spec.submodule_search_locations[0], folder).glob("*.py")]
        revisions = {found for text in texts for found in re.findall(r'^revision = "(\w+)"', text, re.M)}
        before = {found for text in texts for found in re.findall(r'^down_revision = "(\w+)"', text, re.M)}
        (newest,) = revisions - before
        return cls(frozenset(revisions), newest)


def revision(uri: str) -> str | None:
    """The revision of the database at `uri`; None where it has none. Raises what SQLAlchemy raises."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.text("select version_num from alembic_version")).first()
            return str(found[0]) if found else None
    finally:
        engine.dispose()
