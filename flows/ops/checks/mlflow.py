"""Checks of MLflow: its store, experiments, artifacts, aliases of the registry."""

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from relearn.flows.ops.checks.check import FIXES, CheckResult, failed, find_obstacle, ok, skipped, warning
from relearn.flows.process.environment import redact_password
from relearn.flows.releases.release_state import describe_mismatches
from relearn.flows.tracking import registry, schema
from relearn.flows.tracking.artifacts import probe_write
from relearn.flows.tracking.relocation import find_former_location, uri_to_path
from relearn.flows.tracking.runs import find_deleted_experiments
from relearn.flows.tracking.store import (
    Client,
    connect,
    connect_existing,
    is_absent,
    mlflow_errors,
    sqlite_path,
    validate_uri,
)
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.file_lock import DATABASE_FIX
from relearn.model.home import Home
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore, list_released_names

MAX_CHECKED_BYTES = 500_000_000  # a database of this size is checked in less than 2 s


def store(home: Home) -> Iterator[CheckResult]:
    """Check that the store can be reached, is undamaged, of this home, and has the schema of this MLflow."""
    uri = validate_uri(home.tracking_uri)
    file = sqlite_path(uri)
    if file and is_absent(file):
        if file.is_relative_to(home.root) or not (obstacle := find_obstacle(file.parent)):
            yield skipped(f"no run yet: the first run creates {file}")
        else:
            yield failed(f"{file} cannot be created: {obstacle} is not writable", FIXES["store"])
        return
    try:
        with mlflow_errors(uri):
            former_uri = find_former_location(home)
        if former_uri:
            yield failed(
                f"{file} names files in {uri_to_path(former_uri).parent}, but this home is {home.root}",
                "relearn compare corrects this, as any command that reads runs; it changes nothing there",
            )
            return
        experiments = connect(home).search_experiments()
    except InfrastructureError as error:
        yield _explain_unusable(uri, error)
        return
    if file and (damage := _find_damage(file)):
        yield failed(f"{file} is damaged: {damage}", _suggest_restore(file))
    elif file and not os.access(file, os.W_OK):
        yield failed(
            f"{file} cannot be written by this user",
            f"make this user its owner: chown {shlex.quote(str(file))}",
        )
    else:
        yield ok(f"{redact_password(uri)} answers, {len(experiments)} experiments")


def _explain_unusable(uri: str, error: InfrastructureError) -> CheckResult:
    """Return why the store cannot be used, and the fix."""
    file, revision = sqlite_path(uri), None
    if uri.startswith("http"):
        if "Invalid Host header" in str(error):
            host = urlsplit(uri).netloc.rpartition("@")[2]
            message = f"MLflow's server at {redact_password(uri)} rejects requests for the host name {host}"
            return failed(message, f"start it with --allowed-hosts {host}, in addition to its present ones")
        return failed(str(error), FIXES["store"])
    if str(error).endswith(DATABASE_FIX):
        return failed(str(error).removesuffix(f"; {DATABASE_FIX}"), DATABASE_FIX)
    with suppress(SQLAlchemyError):
        revision = schema.read_current_revision(uri)
    known_revisions = schema.KnownRevisions.from_package(*schema.MLFLOW_MIGRATIONS)
    if revision != known_revisions.head and revision in known_revisions.revisions:
        message = (
            f"{redact_password(uri)} is of an older MLflow: its schema is {revision}, this MLflow"
            f" requires {known_revisions.head}"
        )
        store_argument = shlex.quote(uri) if file else '"$MLFLOW_TRACKING_URI"'
        return failed(message, f"make a copy of it, then: mlflow db upgrade {store_argument}")
    if revision is not None and revision != known_revisions.head:
        message = (
            f"{redact_password(uri)} is of another MLflow: its schema, {revision}, is unknown to this one"
        )
        return failed(
            message, "install the MLflow that created it, or set MLFLOW_TRACKING_URI to another store"
        )
    return failed(
        str(error), _suggest_restore(file) if file else "start that database, or unset MLFLOW_TRACKING_URI"
    )


def _suggest_restore(file: Path) -> str:
    """Return a fix that keeps the store: a new one would number versions from 1 again."""
    return f"restore {file} from a copy; without one, sqlite3 {file} .recover saves what can be read"


def _find_damage(file: Path) -> str:
    """Return the damage that SQLite finds in its file, "" for none; large files are not checked."""
    if file.stat().st_size > MAX_CHECKED_BYTES:
        return ""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=2)) as database:
            ((message,),) = database.execute("pragma quick_check(1)").fetchall()
    except sqlite3.Error as error:
        message = str(error)
    return "" if message == "ok" else " ".join(str(message).split())


def experiments(home: Home) -> Iterator[CheckResult]:
    """Report deleted experiments: their names cannot be used for training until they are restored."""
    restore_commands, model_names = (
        find_deleted_experiments(connect_existing(home)),
        list_released_names(home),
    )
    for name, restore_command in restore_commands.items():
        message = "was deleted in MLflow: no model of this name can be trained"
        yield (failed if name in model_names else warning)(message, restore_command, name)
    if not restore_commands:
        yield ok("none is deleted")


def artifacts(home: Home) -> Iterator[CheckResult]:
    """Check that artifacts can be stored: a file is written, read back and deleted."""
    experiments = connect_existing(home).search_experiments()
    locations = sorted(
        {experiment.artifact_location for experiment in experiments if experiment.name != "Default"}
    )
    if not locations:
        yield skipped("no run has stored a file yet")
    for location in locations:
        try:
            probe_write(location)
        except Exception as error:  # each kind of store has its own error classes
            is_unproxied = home.tracking_uri.startswith("http") and not location.startswith(
                "mlflow-artifacts:"
            )
            yield failed(
                f"{location} cannot store files: {' '.join(str(error).split())[:200]}",
                (
                    "start MLflow's server with --serve-artifacts, or let this machine write there"
                    if is_unproxied
                    else "let this user write there; if it is full: relearn home prune --keep 3"
                ),
            )
        else:
            yield ok(f"{location} stores files and returns them")


def aliases(home: Home) -> Iterator[CheckResult]:
    """Check that the aliases @champion and @previous name the runs of the ledger."""
    client = connect_existing(home)
    for name in list_released_names(home):
        with suppress(CorruptDataError, InfrastructureError):  # of the ledger, which has its own check
            live = ReleaseStore(home.releases_dir(name)).read_live()
            if live:
                yield _check_aliases(home, client, name, live)


def _check_aliases(home: Home, client: Client, name: str, live: Release) -> CheckResult:
    mismatches = "; ".join(describe_mismatches(home, name))
    if not mismatches:
        return ok(f"@champion is version {live.version} (run {live.run_id[:8]}), as the ledger says", name)
    if not registry.has_classifier(client, live.run_id):
        message = f"{mismatches}; its run is gone from MLflow, and it is still served"
        return warning(message, "nothing has to be done: the next release sets the aliases again", name)
    fix = f"relearn release {live.run_id[:8]} corrects this, and changes nothing else"
    return warning(mismatches, fix, name)
