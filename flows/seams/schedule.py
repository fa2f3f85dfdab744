"""Prefect: its server and database, the runner, the rule against zombies, what is due and what is stuck."""

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata

from sqlalchemy.exc import SQLAlchemyError

from relearn.flows import environment, schema
from relearn.flows.doctor import MENDS, Found, away, fails, warning, well
from relearn.flows.prefect_server import POOL, RULE, SILENT, PrefectServer, moment
from relearn.model.errors import MachineError
from relearn.model.home import Home, sqlite_url


def settings(home: Home) -> Iterator[Found]:
    """Check that Prefect accepts the settings of its variables and its profile."""
    made = [folder for folder in (home.prefect, home.root) if not folder.exists()]  # by Prefect's import
    try:
        environment.load_prefect(home)
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
    yield well("Prefect takes its settings")


def server(home: Home) -> Iterator[Found]:
    """Whether one is there; without, flows report to a temporary one, and nothing is scheduled."""
    prefect, ours = PrefectServer.of(home), metadata.version("prefect")
    named = "PREFECT_API_URL" in os.environ
    try:
        there = prefect.answers()
    except MachineError as error:
        yield (fails if named else warning)(str(error), MENDS["server"])
        return
    if not there and named:
        yield fails(f"PREFECT_API_URL: no Prefect server answers at {prefect.page}", MENDS["server"])
    elif not there:
        yield away(f"none answers at {prefect.page}: flows report to a temporary one, nothing is scheduled")
    elif (theirs := prefect.version()) != ours:
        told = f"{prefect.page} is Prefect {theirs}, installed here is {ours}"
        yield warning(told, "start it with the one that is installed here")
    else:
        yield well(f"{prefect.page} answers, Prefect {theirs}")


def database(home: Home) -> Iterator[Found]:
    """Whether the one in the home has a form that this Prefect knows; an older one it brings up to date."""
    file = home.prefect / "prefect.db"
    if not file.exists():
        yield away(f"no flow yet: the first makes {file}")
        return
    try:
        there = schema.revision(sqlite_url(file))
    except SQLAlchemyError as error:
        told = str(error).splitlines()[0]
        yield fails(
            f"{file} cannot be used: {told}",
            "end the server and move the file away: the next one begins a new one, and MLflow keeps its runs",
        )
        return
    known = schema.Known.of(*schema.PREFECT)
    if there in known.all:
        yield well(f"{file} has a schema that Prefect {metadata.version('prefect')} knows")
    else:
        yield fails(
            f"{file} is of another Prefect: this one does not know its schema, {there}",
            "install the Prefect that made it, or move the file away: the next server begins a new one",
        )


def runner(home: Home) -> Iterator[Found]:
    """Whether a worker takes what is scheduled."""
    prefect = PrefectServer.of(home)
    pool = prefect.pool()
    if pool is None:
        yield away("nothing is scheduled")
        return
    online = [one["name"] for one in prefect.workers() if one.get("status") == "ONLINE"]
    if pool.get("is_paused"):
        yield warning(f"the work pool {POOL} is paused: nothing runs", f"prefect work-pool resume {POOL}")
    elif online:
        yield well(f"{len(online)} online: {', '.join(online)}")
    else:
        yield fails("no worker is online: what is due does not run", "relearn up keeps one")


def rule(home: Home) -> Iterator[Found]:
    """Whether runs whose process was killed are ended, so that the next one may begin."""
    prefect = PrefectServer.of(home)
    if prefect.pool() is None:
        yield away("nothing is scheduled")
        return
    found, page = prefect.rules(), f"{prefect.page}/automations"
    harm = "after a kill -9 the next run would never begin"
    if not found:
        yield fails(f"{RULE!r} is missing: {harm}", "relearn up sets it when it starts")
    elif not any(one.get("enabled") for one in found):
        yield fails(f"{RULE!r} is switched off: {harm}", f"switch it on at {page}")
    elif len(found) > 1:
        yield warning(f"{RULE!r} is there {len(found)} times", f"delete all but one at {page}")
    else:
        yield well("runs without heartbeat are closed")


def due(home: Home) -> Iterator[Found]:
    """When what is scheduled runs next; where nothing is planned, the scheduler is dead."""
    prefect = PrefectServer.of(home)
    found = prefect.deployments()
    for one in found:
        about = f"{one['flow_name']}/{one['name']}"
        active = [schedule for schedule in one.get("schedules", ()) if schedule.get("active")]
        if one.get("paused") or not active:
            yield away("paused, or without a time", about)
        elif planned := prefect.next_run(one):
            yield well(f"next at {planned:%Y-%m-%d %H:%M} UTC", about)
        else:
            yield fails(
                "has a time, and no run is planned: the scheduler of Prefect's server has died",
                "start that server again, from where SQLAlchemy is older than 2.1",
                about,
            )
    if not found:
        yield away("nothing is scheduled")


def stuck(home: Home) -> Iterator[Found]:
    """Runs that nobody takes, and runs that nobody has heard of."""
    prefect = PrefectServer.of(home)
    late, silent = prefect.late(), prefect.silent()
    if late:
        since = moment(late[0]["expected_start_time"])
        told = f"{len(late)} runs are late, the first since {since:%Y-%m-%d %H:%M} UTC"
        yield warning(told, "see runner, above")
    minutes = SILENT.total_seconds() / 60
    for run in silent:
        yield warning(
            f"{run['name']} is said to be running, and was not heard of for {minutes:g} minutes",
            f"let its state be Crashed at {prefect.page}/runs/flow-run/{run['id']}; see rule, above",
        )
    if not late and not silent:
        yield well("no run is late, none is silent")
