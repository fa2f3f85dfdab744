"""A retraining that was cut off goes on: it is due once more, for whichever runner takes it.

Cut off is one whose process or machine is gone, which Prefect calls crashed; and one that failed by a
`MachineError`, such as a server that is away: what was asked for was not wrong. What a runner took and never
began, a retraining or not, is due once more too.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

from relearn.flows.prefect_server import PrefectServer, Row, moment
from relearn.model.errors import MachineError

AGAIN = 2  # times; who is killed each time, for want of memory perhaps, is not to be tried for ever
GOES_ON = "goes on after: "  # what we say of each time
SINCE = timedelta(days=1)  # after which nobody waits for it any more
PAUSE = timedelta(minutes=1)  # before each time, for who was away to be well again


def put_back(server: PrefectServer, not_closed: Collection[str]) -> Iterator[str]:
    """Let go on what never began and, of each name, the retraining that began last, where it was cut off.

    Not one that lives or that somebody has cancelled, nor where another one is under way. Those of
    `not_closed` live, whatever Prefect says, or are closed before the next look. Says a line of each.
    """
    for deployment in server.deployments():
        for run in _cut_off(server, deployment, not_closed):
            if server.is_busy(deployment):
                break
            why = run["state"]["message"] or run["state"]["name"]
            server.put_back(run, moment(run["state"]["timestamp"]) + PAUSE, GOES_ON + why)
            yield f"{run['name']} {GOES_ON}{why}"


def _cut_off(server: PrefectServer, deployment: Row, not_closed: Collection[str]) -> Iterator[Row]:
    yield from (run for run in server.never_begun(deployment) if _may_go_on(server, run))
    run = server.last_begun(deployment) if deployment["flow_name"] == "retrain" else None
    dead = run and run["id"] not in not_closed and _is_cut_off(run["state"]) and server.is_over(run)
    if run and dead and _may_go_on(server, run):
        yield run


def _may_go_on(server: PrefectServer, run: Row) -> bool:
    """Whether nobody has cancelled it, and it did not go on too often."""
    states = server.states(run)
    cancelled = any(state["type"] in ("CANCELLING", "CANCELLED") for state in states)
    times = sum((state["message"] or "").startswith(GOES_ON) for state in states)
    return not cancelled and times < AGAIN


def _is_cut_off(state: Row) -> bool:
    failed = state["type"] == "FAILED" and f" {MachineError.__name__}: " in (state["message"] or "")
    recent = datetime.now(UTC) - moment(state["timestamp"]) < SINCE
    return recent and (failed or state["type"] == "CRASHED")
