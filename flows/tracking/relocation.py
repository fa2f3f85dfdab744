"""Relocation of a home: the absolute paths in MLflow's store follow the home to another folder."""

from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy

from relearn.model.home import Home, sqlite_url

# Columns of MLflow's tables with URIs of files; a tag lists the files that `relearn home prune` deleted.
URI_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("tags", "value"),
)


def find_former_location(home: Home) -> str | None:
    """Return the URI under which the store in `home` keeps files, if that is no longer in `home`; else None.

    The location of MLflow's first experiment, which is created with the store, names it. Stores outside of
    the home are not read: other homes may use them.
    """
    if home.tracking_uri != sqlite_url(home.root / "mlflow.db"):
        return None
    engine = sqlalchemy.create_engine(home.tracking_uri)
    try:
        with engine.connect() as connection:
            query = "select artifact_location from experiments where experiment_id = 0"
            uri = str(connection.execute(sqlalchemy.text(query)).scalar()).removesuffix("/0")
    finally:
        engine.dispose()
    if not (uri.startswith("file:") and uri.endswith("/artifacts")):
        return None
    with suppress(OSError):  # it is gone: the home was moved
        if uri_to_path(uri).parent.samefile(home.root):  # perhaps by a link
            return None
    return uri


def relocate(home: Home) -> str | None:
    """Make the store in `home` name the files in `home`; return the URI that it named, None if it was right.

    All paths change in one transaction; those of other places stay. No file is touched, in particular none
    in the former folder: it may be the original of this copy.
    """
    former_uri = find_former_location(home)
    if former_uri is None:
        return None
    engine = sqlalchemy.create_engine(home.tracking_uri)
    try:
        with engine.begin() as connection:
            for table, column in URI_COLUMNS:
                # The slash at the end distinguishes `artifacts` from `artifacts2`.
                update = f"""update {table}
                    set {column} = rtrim(replace({column} || '/', :former, :current), '/')
                    where substr({column} || '/', 1, length(:former)) = :former"""  # noqa: S608
                connection.execute(
                    sqlalchemy.text(update),
                    {"former": f"{former_uri}/", "current": f"{home.artifacts.as_uri()}/"},
                )
    finally:
        engine.dispose()
    return former_uri


def uri_to_path(uri: str) -> Path:
    """Return the path of a file URI."""
    return Path(unquote(urlsplit(uri).path))
