"""MLflow: the store of runs, its artifacts, runs that nobody ends, the aliases of what is live."""

import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from relearn.flows import archive, registry, schema
from relearn.flows.doctor import MENDS, Found, away, fails, warning, well
from relearn.flows.environment import masked
from relearn.flows.store import Client, connect, file_of, look_into
from relearn.flows.tracking import deleted_experiments, lost_runs
from relearn.model.errors import IntegrityError, MachineError
from relearn.model.home import Home
from relearn.serving.ledger import Release
from relearn.serving.releases import Releases, names

LARGE = 500_000_000  # bytes of a database that is looked through in less than 2 s


def store(home: Home) -> Iterator[Found]:
    """Whether it can be reached, is whole, and has the form that this MLflow works with."""
    uri, file = home.tracking_uri, file_of(home.tracking_uri)
    if file and not file.exists():
        yield away(f"no run yet: the first makes {file}")
        return
    try:
        experiments = connect(home).search_experiments()
    except MachineError as error:
        yield _unusable(uri, error)
        return
    if file and (broken := _broken(file)):
        yield fails(f"{file} is damaged: {broken}", _restore(file))
    else:
        yield well(f"{masked(uri)} answers, {len(experiments)} experiments")


def _unusable(uri: str, error: MachineError) -> Found:
    """Why, as far as it can be told, and what helps against it."""
    file, there = file_of(uri), None
    if uri.startswith("http"):
        if "Invalid Host header" in str(error):
            host = urlsplit(uri).netloc.rpartition("@")[2]
            told = f"MLflow's server at {masked(uri)} refuses requests that call it {host}"
            return fails(told, f"start it with --allowed-hosts {host}, beside those it has")
        return fails(str(error), MENDS["store"])
    with suppress(SQLAlchemyError):
        there = schema.revision(uri)
    known = schema.Known.of(*schema.MLFLOW)
    if there in known.all:
        told = f"{masked(uri)} is of an older MLflow: its schema is {there}, this one needs {known.newest}"
        named = shlex.quote(uri) if file else '"$MLFLOW_TRACKING_URI"'
        return fails(told, f"keep a copy of it, then: mlflow db upgrade {named}")
    if there is not None:
        told = f"{masked(uri)} is of another MLflow: this one does not know its schema, {there}"
        return fails(told, "install the MLflow that made it, or name another store by MLFLOW_TRACKING_URI")
    return fails(str(error), _restore(file) if file else "start that database, or unset MLFLOW_TRACKING_URI")


def _restore(file: Path) -> str:
    """Not to begin a new one: it would number its versions from 1, and those are taken."""
    return f"put a copy of {file} back; without one, sqlite3 {file} .recover saves what can be read"


def _broken(file: Path) -> str:
    """What SQLite finds wrong with its file; large ones are not looked through."""
    if file.stat().st_size > LARGE:
        return ""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=2)) as database:
            ((told,),) = database.execute("pragma quick_check(1)").fetchall()
    except sqlite3.Error as error:
        told = str(error)
    return "" if told == "ok" else " ".join(str(told).split())


def experiments(home: Home) -> Iterator[Found]:
    """Report deleted experiments: nothing is trained under their names until they are back."""
    deleted, released = deleted_experiments(look_into(home)), names(home)
    for name, restore in deleted.items():
        told = "was deleted in MLflow: nothing can be trained under this name"
        yield (fails if name in released else warning)(told, restore, name)
    if not deleted:
        yield well("none was deleted")


def artifacts(home: Home) -> Iterator[Found]:
    """Whether files of runs can be kept: one is, read back, and removed with all that was made for it."""
    experiments = look_into(home).search_experiments()
    places = sorted({one.artifact_location for one in experiments if one.name != "Default"})
    if not places:
        yield away("no run has kept a file yet")
    for place in places:
        try:
            archive.try_out(place)
        except Exception as error:  # each kind of store has its own
            served = home.tracking_uri.startswith("http") and not place.startswith("mlflow-artifacts:")
            yield fails(
                f"{place} takes no files: {' '.join(str(error).split())[:200]}",
                "start MLflow's server with --serve-artifacts, or let this machine write there"
                if served
                else "let this user write there; where it is full: relearn prune --keep 3",
            )
        else:
            yield well(f"{place} takes files, and gives them back")


def lost(home: Home) -> Iterator[Found]:
    """Runs said to be running, whose process is gone."""
    found = lost_runs(look_into(home))
    for run in found:
        short = run.info.run_id[:8]
        kept = (home.checkpoints / run.info.run_id).is_dir()
        yield warning(
            f"{run.info.run_name} ({short}) is said to be running, its process is gone",
            f"relearn train --resume {short} goes on with it" if kept else "the next relearn run closes it",
        )
    if not found:
        yield well("every run that is said to be running has its process, or is of another machine")


def aliases(home: Home) -> Iterator[Found]:
    """Whether @champion and @previous mean what the ledger says."""
    client = look_into(home)
    for name in names(home):
        with suppress(IntegrityError, MachineError):  # of the ledger: its own check tells
            last = Releases(home.releases(name)).ledger.last()
            if last and last.live:
                yield _aliases(client, name, last.live, last.previous)


def _aliases(client: Client, name: str, live: Release, previous: str | None) -> Found:
    truth = {registry.CHAMPION: live.version, registry.PREVIOUS: previous}
    wrong = registry.astray(client, name, truth)
    gone = {version for version in truth.values() if version} - set(registry.versions(client, name))
    if gone:
        return warning(
            f"version {min(gone)} is gone from MLflow's registry; it is served all the same",
            "nothing has to be done: the next release sets the aliases anew",
            name,
        )
    if wrong:
        told = (
            f"@{alias} means {meant or 'nothing'}, the ledger says {truth[alias] or 'nothing'}"
            for alias, meant in wrong.items()
        )
        mend = f"relearn release {live.run_id[:8]} puts that right, and changes nothing else"
        return warning("; ".join(told), mend, name)
    told = (f"@{alias} {version or 'nothing'}" for alias, version in truth.items())
    return well(f"MLflow's aliases mean what the ledger says: {', '.join(told)}", name)
