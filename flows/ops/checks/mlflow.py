"""Checks of MLflow: its store, experiments, artifacts, orphaned runs, aliases of the registry."""

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from relearn.flows.environment import redact_password
from relearn.flows.ops.checks.check import FIXES, CheckResult, failed, find_obstacle, ok, skipped, warning
from relearn.flows.tracking import registry, schema
from relearn.flows.tracking.artifacts import probe_write
from relearn.flows.tracking.runs import find_deleted_experiments, find_orphaned_runs
from relearn.flows.tracking.store import (
    Client,
    connect,
    connect_existing,
    is_absent,
    sqlite_path,
    validate_uri,
)
from relearn.model.errors import CorruptDataError, InfrastructureError
from relearn.model.home import Home
from relearn.serving.releases.ledger import Release
from relearn.serving.releases.store import ReleaseStore, list_released_names

MAX_CHECKED_BYTES = 500_000_000  # a database of this size is checked in less than 2 s


def store(home: Home) -> Iterator[CheckResult]:
    """Check that the store can be reached, is undamaged, and has the schema of this MLflow."""
    uri = validate_uri(home.tracking_uri)
    file = sqlite_path(uri)
    if file and is_absent(file):
        if file.is_relative_to(home.root) or not (obstacle := find_obstacle(file.parent)):
            yield skipped(f"no run yet: the first run creates {file}")
        else:
            yield failed(f"{file} cannot be created: {obstacle} is not writable", FIXES["store"])
        return
    try:
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
    with suppress(SQLAlchemyError):
        revision = schema.read_current_revision(uri)
    known_revisions = schema.KnownRevisions.from_package(*schema.MLFLOW_MIGRATIONS)
    if revision in known_revisions.revisions:
        message = (
            f"{redact_password(uri)} is of an older MLflow: its schema is {revision}, this MLflow"
            f" requires {known_revisions.head}"
        )
        store_argument = shlex.quote(uri) if file else '"$MLFLOW_TRACKING_URI"'
        return failed(message, f"make a copy of it, then: mlflow db upgrade {store_argument}")
    if revision is not None:
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
                    else "let this user write there; if it is full: relearn prune --keep 3"
                ),
            )
        else:
            yield ok(f"{location} stores files and returns them")


def orphaned_runs(home: Home) -> Iterator[CheckResult]:
    """Report runs in state RUNNING whose process is gone."""
    orphaned_runs = find_orphaned_runs(connect_existing(home))
    for run in orphaned_runs:
        short_id = run.info.run_id[:8]
        has_checkpoint = (home.checkpoints / run.info.run_id).is_dir()
        yield warning(
            f"{run.info.run_name} ({short_id}) is RUNNING in MLflow, and its process is gone",
            (
                f"relearn train --resume {short_id} continues it"
                if has_checkpoint
                else "the next relearn run closes it"
            ),
        )
    if not orphaned_runs:
        yield ok("every RUNNING run of this machine has its process")


def aliases(home: Home) -> Iterator[CheckResult]:
    """Check that the aliases @champion and @previous agree with the ledger."""
    client = connect_existing(home)
    for name in list_released_names(home):
        with suppress(CorruptDataError, InfrastructureError):  # of the ledger, which has its own check
            last_entry = ReleaseStore(home.releases_dir(name)).ledger.read_last()
            if last_entry and last_entry.live:
                yield _check_aliases(client, name, last_entry.live, last_entry.rollback_target)


def _check_aliases(
    client: Client, name: str, live_release: Release, previous_version: str | None
) -> CheckResult:
    expected_versions = {
        registry.CHAMPION_ALIAS: live_release.version,
        registry.PREVIOUS_ALIAS: previous_version,
    }
    mismatches = registry.find_mismatched_aliases(client, name, expected_versions)
    deleted_versions = {version for version in expected_versions.values() if version} - set(
        registry.list_versions(client, name)
    )
    if deleted_versions:
        return warning(
            f"version {min(deleted_versions)} is gone from MLflow's registry; it is still served",
            "nothing has to be done: the next release sets the aliases again",
            name,
        )
    if mismatches:
        messages = (
            f"@{alias} points to {actual_version or 'no version'}, the ledger says"
            f" {expected_versions[alias] or 'no version'}"
            for alias, actual_version in mismatches.items()
        )
        fix = f"relearn release {live_release.run_id[:8]} corrects this, and changes nothing else"
        return warning("; ".join(messages), fix, name)
    messages = (f"@{alias} {version or 'no version'}" for alias, version in expected_versions.items())
    return ok(f"MLflow's aliases agree with the ledger: {', '.join(messages)}", name)
