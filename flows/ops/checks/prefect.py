"""Checks of Prefect: settings, database, server, worker, automation, next runs, late runs."""

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata

from sqlalchemy.exc import SQLAlchemyError

from relearn.flows.ops.checks.check import FIXES, CheckResult, failed, ok, skipped, warning
from relearn.flows.orchestration.prefect_api import (
    PASSWORD_FIX,
    STATE_PROBLEMS,
    WORK_POOL,
    ZOMBIE_AUTOMATION,
    PrefectApi,
    parse_time,
)
from relearn.flows.process import environment
from relearn.flows.tracking import schema
from relearn.model.file_lock import DATABASE_FIX, describe_database_lock
from relearn.model.home import Home, sqlite_url

FREE_PREFECT_PORT = 4210  # suggested if 4200 is in use


def settings(home: Home) -> Iterator[CheckResult]:
    """Check that Prefect accepts the settings of its variables and its profile."""
    created_folders = [
        folder for folder in (home.prefect, home.root) if not folder.exists()
    ]  # by Prefect's import
    try:
        environment.load_prefect(home)
    finally:
        for folder in created_folders:
            with suppress(OSError):
                folder.rmdir()
    yield ok("Prefect accepts its settings")


def server(home: Home) -> Iterator[CheckResult]:
    """Check the server; without one, flows report to a temporary server, and nothing is scheduled."""
    prefect, installed_version = PrefectApi.from_environment(home), metadata.version("prefect")
    is_configured = "PREFECT_API_URL" in os.environ
    state = prefect.get_state()
    if state == "unauthorized":
        yield failed(f"{prefect.ui_url} {STATE_PROBLEMS[state]}", PASSWORD_FIX)
    elif state in STATE_PROBLEMS and is_configured:
        yield failed(f"{prefect.ui_url} {STATE_PROBLEMS[state]}", FIXES["server"])
    elif state in STATE_PROBLEMS:
        yield warning(
            f"{prefect.ui_url} {STATE_PROBLEMS[state]}",
            "nothing has to be done: flows report to a temporary server; to schedule retrainings, start one"
            f" on another port: relearn up --prefect-port {FREE_PREFECT_PORT}",
        )
    elif state == "absent" and is_configured:
        yield failed(f"PREFECT_API_URL: no Prefect server answers at {prefect.ui_url}", FIXES["server"])
    elif state == "absent":
        yield skipped(f"none at {prefect.ui_url}: flows report to a temporary server, nothing is scheduled")
    elif (server_version := prefect.get_version()) != installed_version:
        message = f"{prefect.ui_url} is Prefect {server_version}, installed here is {installed_version}"
        yield warning(message, "start it with the Prefect that is installed here")
    else:
        yield ok(f"{prefect.ui_url} answers, Prefect {server_version}")


def database(home: Home) -> Iterator[CheckResult]:
    """Check that the installed Prefect knows the schema of its database; an older schema is no fault, since
    Prefect upgrades it.
    """
    file = home.prefect / "prefect.db"
    if not file.exists():
        yield skipped(f"no flow yet: the first flow creates {file}")
        return
    if lock := describe_database_lock(file):
        yield failed(lock, DATABASE_FIX)
        return
    try:
        revision = schema.read_current_revision(sqlite_url(file))
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        yield failed(
            f"{file} cannot be used: {reason}",
            "stop the server and move the file away: the next server creates it anew, MLflow keeps its runs",
        )
        return
    known_revisions = schema.KnownRevisions.from_package(*schema.PREFECT_MIGRATIONS)
    if revision in known_revisions.revisions:
        yield ok(f"{file} has a schema that Prefect {metadata.version('prefect')} knows")
    else:
        yield failed(
            f"{file} is of another Prefect: its schema, {revision}, is unknown to this one",
            "install the Prefect that created it, or move the file away: the next server creates a new one",
        )


def worker(home: Home) -> Iterator[CheckResult]:
    """Check that a worker is online to run scheduled flows."""
    prefect = PrefectApi.from_environment(home)
    pool = prefect.get_work_pool()
    if pool is None:
        yield skipped("nothing is scheduled")
        return
    online_workers = [worker["name"] for worker in prefect.list_workers() if worker.get("status") == "ONLINE"]
    if pool.get("is_paused"):
        yield warning(
            f"the work pool {WORK_POOL} is paused: nothing runs", f"prefect work-pool resume {WORK_POOL}"
        )
    elif online_workers:
        yield ok(f"{len(online_workers)} online: {', '.join(online_workers)}")
    else:
        yield failed("no worker is online: scheduled flows do not run", "relearn up runs one")


def automation(home: Home) -> Iterator[CheckResult]:
    """Check the automation that ends runs whose process was killed, so that the next run can start."""
    prefect = PrefectApi.from_environment(home)
    if prefect.get_work_pool() is None:
        yield skipped("nothing is scheduled")
        return
    automations, automations_url = prefect.list_automations(), f"{prefect.ui_url}/automations"
    consequence = "after a kill -9 the next run would never start"
    if not automations:
        yield failed(
            f"{ZOMBIE_AUTOMATION!r} is missing: {consequence}", "relearn up creates it when it starts"
        )
    elif not any(automation.get("enabled") for automation in automations):
        yield failed(
            f"{ZOMBIE_AUTOMATION!r} is switched off: {consequence}", f"switch it on at {automations_url}"
        )
    elif len(automations) > 1:
        yield warning(
            f"{ZOMBIE_AUTOMATION!r} exists {len(automations)} times",
            f"delete all but one at {automations_url}",
        )
    else:
        yield ok("runs without heartbeat are marked as crashed")


def next_run(home: Home) -> Iterator[CheckResult]:
    """Report the next run of each deployment; a schedule without runs means that the scheduler is dead."""
    prefect = PrefectApi.from_environment(home)
    deployments = prefect.list_deployments()
    for deployment in deployments:
        subject = f"{deployment['flow_name']}/{deployment['name']}"
        active_schedules = [
            schedule for schedule in deployment.get("schedules", ()) if schedule.get("active")
        ]
        if deployment.get("paused") or not active_schedules:
            yield skipped("paused, or without a schedule", subject)
        elif next_start := prefect.find_next_run_time(deployment):
            yield ok(f"next at {next_start:%Y-%m-%d %H:%M} UTC", subject)
        else:
            yield failed(
                "has a schedule, and no run is planned: the scheduler of Prefect's server has died",
                "start that server again, with SQLAlchemy older than 2.1",
                subject,
            )
    if not deployments:
        yield skipped("nothing is scheduled")


def late_runs(home: Home) -> Iterator[CheckResult]:
    """Report due runs that no worker has claimed."""
    if runs := PrefectApi.from_environment(home).list_late_runs():
        expected_start = parse_time(runs[0]["expected_start_time"])
        message = f"{len(runs)} runs are late, the first since {expected_start:%Y-%m-%d %H:%M} UTC"
        yield warning(message, "see worker")
    else:
        yield ok("no run is late")
