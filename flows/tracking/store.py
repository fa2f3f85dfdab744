"""MLflow's tracking store: a database or a server. Connects to it and translates its errors."""

import os
import select
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from relearn.flows.process.environment import redact_password
from relearn.flows.process.logs import silence_mlflow
from relearn.flows.tracking.relocation import relocate, uri_to_path
from relearn.model.errors import InfrastructureError, NotFoundError, UserInputError
from relearn.model.file_lock import DATABASE_FIX, describe_locked_database, locked
from relearn.model.files import atomic_file
from relearn.model.home import MLFLOW_UI_URL, Home, sqlite_url

LOCK_TIMEOUT_SECONDS = 120.0  # for another process to create the store; it takes seconds
STATEMENT_TIMEOUT_SECONDS = 20.0  # for one statement of a database; it takes milliseconds

Client = MlflowClient  # the type for packages that do not import MLflow
DEFAULT_MLFLOW_URL = "http://127.0.0.1:5000"  # of `mlflow server` with a local store


def connect(home: Home) -> MlflowClient:
    """Return a client of the store of `home`, and make it MLflow's default store.

    A local store is created if needed, and its paths follow a home that was moved or copied. Raises
    `UserInputError` for a URI that MLflow does not accept, `InfrastructureError` if the store cannot be used.
    """
    uri = validate_uri(home.tracking_uri)
    silence_mlflow()
    file = sqlite_path(uri)
    env_uri = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if env_uri is None:  # MLflow exports it; a second home in this process would get the first one's store
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        with mlflow_errors(uri):
            if uri.startswith("postgresql"):
                _set_statement_timeout(STATEMENT_TIMEOUT_SECONDS)
            if file and is_absent(file):
                _create_store(file, home)
            if file or uri.startswith("postgresql"):
                _ping(uri)
            client = MlflowClient()
            client.search_experiments(max_results=1)
            if former_uri := relocate(home):
                message = f"the home was at {uri_to_path(former_uri).parent}: {file} now names {home.root}"
                print(f"note: {message}", file=sys.stderr)  # noqa: T201
    except ImportError as error:  # the driver of a database
        raise _to_infrastructure_error(uri, str(error)) from None
    return client


def _ping(uri: str) -> None:
    """Read from the database, or raise its error at once: MLflow itself retries for 100 seconds."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":  # opens the file with the first statement
                connection.execute(sqlalchemy.text("pragma schema_version"))
    finally:
        engine.dispose()


def _set_statement_timeout(seconds: float) -> None:
    """Limit the duration of a statement on PostgreSQL, whose driver has no limit."""
    import psycopg2
    from psycopg2.extensions import POLL_OK, POLL_READ, set_wait_callback

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != POLL_OK:
            readers, writers = ([connection], []) if state == POLL_READ else ([], [connection])
            if not any(select.select(readers, writers, [], seconds)):
                connection.close()
                raise psycopg2.OperationalError(f"no answer within {seconds:g} seconds")

    set_wait_callback(wait)


def is_absent(file: Path) -> bool:
    """Return whether this SQLite database has no content yet: MLflow would fill an empty file in place.

    Raises `InfrastructureError` for a path to a folder, pipe or device.
    """
    if file.exists() and not file.is_file():
        raise InfrastructureError(
            f"{file} is no regular file; move it away, or set MLFLOW_TRACKING_URI to another store"
        )
    return not file.exists() or file.stat().st_size == 0


def _create_store(file: Path, home: Home) -> None:
    """Create an empty store atomically.

    MLflow creates its tables in place, which takes seconds: a process that is killed meanwhile, or a second
    one that starts, leaves a store that MLflow can no longer open.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    lock_file = file.parent / f".{file.name}.lock"
    busy_message = f"another process is still creating {file}"
    with locked(lock_file, busy_message, LOCK_TIMEOUT_SECONDS):
        if not is_absent(file):  # another process was faster
            return
        for stale_file in file.parent.glob(f".{file.name}.*.tmp*"):
            stale_file.unlink()
        with atomic_file(file) as temporary:
            SqlAlchemyStore(sqlite_url(temporary), home.artifacts.as_uri()).engine.dispose()


def connect_existing(home: Home) -> MlflowClient:
    """Connect for reading; raises `NotFoundError` instead of creating an empty store."""
    file = sqlite_path(validate_uri(home.tracking_uri))
    if file and is_absent(file):
        raise NotFoundError(f"no run yet, there is no {file}: run relearn run or relearn train")
    return connect(home)


def ui_url(uri: str) -> str:
    """Return the URL of MLflow's UI for a store; for a server its own URL, without user and password."""
    if configured_url := os.environ.get(MLFLOW_UI_URL):
        return configured_url.rstrip("/")
    if not uri.startswith("http"):
        return DEFAULT_MLFLOW_URL
    split_uri = urlsplit(uri)
    return split_uri._replace(netloc=split_uri.netloc.rpartition("@")[2]).geturl().rstrip("/")


def validate_uri(uri: str) -> str:
    """Return `uri`; raise `UserInputError` if it is no tracking URI that MLflow accepts."""
    try:
        uri.encode()  # bytes that are not UTF-8
        split_uri = urlsplit(uri)
        is_supported = split_uri.scheme.split("+")[0] in ("sqlite", "postgresql", "mysql", "http", "https")
        is_complete = sqlite_path(uri) not in (Path(), Path(":memory:")) and (
            sqlite_path(uri) or split_uri.hostname
        )
    except (ValueError, ArgumentError):  # an unclosed bracket
        is_supported = is_complete = False
    if not (is_supported and is_complete):
        raise UserInputError(
            f"MLFLOW_TRACKING_URI: got {redact_password(uri)!r}, accepted: sqlite:////path/mlflow.db,"
            " postgresql://…, mysql://… or http(s)://… (MLflow no longer keeps runs in a plain folder)"
        )
    return uri


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for other stores."""
    if not uri.startswith("sqlite"):
        return None
    return Path(sqlalchemy.make_url(uri).database or "")


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn errors of the store at `uri` in the block into `InfrastructureError`."""
    try:
        yield
    except MlflowException as error:
        raise _to_infrastructure_error(uri, error.message) from None
    except SQLAlchemyError as error:
        raise _to_infrastructure_error(uri, str(error)) from None


def _to_infrastructure_error(uri: str, message: str) -> InfrastructureError:
    """Return an error with the first line of `message` that gives a reason, its password redacted.

    Of a locked SQLite database the error names the process that holds it.
    """
    if "database is locked" in message and (file := sqlite_path(uri)):
        return InfrastructureError(f"{describe_locked_database(file)}; {DATABASE_FIX}")
    for spelling in (uri, uri.rstrip("/")):
        message = message.replace(spelling, redact_password(spelling))
    lines = [
        line for line in message.splitlines() if line.strip() and not line.startswith("(raised as a result")
    ]
    first_line = lines[0] if lines else "no reason given"
    return InfrastructureError(
        f"MLflow at {redact_password(uri)} cannot be used:"
        f" {textwrap.shorten(first_line, 300, placeholder='…')}"
    )
