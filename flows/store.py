"""The store behind MLflow: which one it is, whether it answers, and what to say when it does not."""

import logging
import os
import select
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from relearn.flows.environment import masked
from relearn.model import atomic
from relearn.model.errors import InputError, MachineError, NotFoundError
from relearn.model.home import RUNS_PAGE, Home, sqlite_url

NOISY = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    # They print a traceback for what is raised as well, and then is one line.
    "mlflow.store.db": logging.CRITICAL,
    "mlflow.system_metrics": logging.CRITICAL,
}

ANSWER = 20.0  # seconds that a database is given for one statement; they take milliseconds

Client = MlflowClient  # as those call it who do without importing MLflow
PAGE = "http://127.0.0.1:5000"  # where the runs of a local store are shown, once `mlflow server` is started


def connect(home: Home) -> MlflowClient:
    """A client of the store that `home` names, which is then also MLflow's own default."""
    uri = _checked(home.tracking_uri)
    for noisy, level in NOISY.items():
        logging.getLogger(noisy).setLevel(level)
    file = file_of(uri)
    named = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if named is None:  # MLflow exports it, and a second home in this process would be taken for the first
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        with reached(uri):
            if uri.startswith("postgresql"):
                _wait_no_longer_than(ANSWER)
                _knock(uri)
            if file and not file.exists():
                _create(file, home)
            client = MlflowClient()
            client.search_experiments(max_results=1)
    except ImportError as error:  # the driver of a database
        raise _unusable(uri, str(error)) from None
    return client


def _knock(uri: str) -> None:
    """Ask a database once whether it is there: MLflow asks ten times, for 100 seconds."""
    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _wait_no_longer_than(seconds: float) -> None:
    """Let a PostgreSQL that has taken a statement, and hangs, be an error: its driver would wait for ever."""
    import psycopg2
    from psycopg2.extensions import POLL_OK, POLL_READ, set_wait_callback

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != POLL_OK:
            reading, writing = ([connection], []) if state == POLL_READ else ([], [connection])
            if not any(select.select(reading, writing, [], seconds)):
                connection.close()
                raise psycopg2.OperationalError(f"no answer within {seconds:g} seconds")

    set_wait_callback(wait)


def _create(file: Path, home: Home) -> None:
    """Make an empty store, whole or not at all.

    MLflow makes its tables in place: a process killed in those seconds, or a second one that starts in
    them, leaves a store that no later one can open.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.parent / f".{file.name}.lock"):
        if file.exists():  # another process was faster
            return
        for left in file.parent.glob(f".{file.name}.*.tmp*"):
            left.unlink()
        with atomic.file(file) as temporary:
            SqlAlchemyStore(sqlite_url(temporary), home.artifacts.as_uri()).engine.dispose()


def look_into(home: Home) -> MlflowClient:
    """The same, for reading only: raises `NotFoundError` rather than making an empty store."""
    file = file_of(_checked(home.tracking_uri))
    if file and not file.exists():
        raise NotFoundError(f"no run yet, there is no {file}: run relearn run or relearn train")
    return connect(home)


def page_of(uri: str) -> str:
    """Where the runs of a store are shown: at a server its own address, without user and password."""
    if named := os.environ.get(RUNS_PAGE):
        return named.rstrip("/")
    if not uri.startswith("http"):
        return PAGE
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _checked(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        known = parts.scheme.split("+")[0] in ("sqlite", "postgresql", "mysql", "http", "https")
        complete = file_of(uri) not in (Path(), Path(":memory:")) and (file_of(uri) or parts.hostname)
    except (ValueError, ArgumentError):  # a bracket that is not closed
        known = complete = False
    if not (known and complete):
        raise InputError(
            f"MLFLOW_TRACKING_URI: got {masked(uri)!r}, accepted: sqlite:////path/mlflow.db, postgresql://…, "
            "mysql://… or http(s)://… (MLflow no longer keeps runs in a plain folder)"
        )
    return uri


def file_of(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other."""
    if not uri.startswith("sqlite"):
        return None
    return Path(sqlalchemy.make_url(uri).database or "")


@contextmanager
def reached(uri: str) -> Iterator[None]:
    """What the store at `uri` refuses or does not answer inside is a `MachineError`."""
    try:
        yield
    except MlflowException as error:
        raise _unusable(uri, error.message) from None
    except SQLAlchemyError as error:
        raise _unusable(uri, str(error)) from None


def _unusable(uri: str, said: str) -> MachineError:
    """The first line of what was said that says it, without a password that may stand in it."""
    for known in (uri, uri.rstrip("/")):
        said = said.replace(known, masked(known))
    lines = [
        line for line in said.splitlines() if line.strip() and not line.startswith("(raised as a result")
    ]
    first = lines[0] if lines else "no reason given"
    return MachineError(
        f"MLflow at {masked(uri)} cannot be used: {textwrap.shorten(first, 300, placeholder='…')}"
    )
