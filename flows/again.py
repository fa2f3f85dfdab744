"""A retraining that was cut off goes on: it is due once more, for whichever runner takes it.

Cut off is one whose process or machine is gone, which Prefect calls crashed; and one that failed by a
`MachineError`, such as a server that is away: what was asked for was not wrong.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

from flows.prefect_server import PrefectServer, Row, moment
from model.errors import MachineError

AGAIN = 2  # times; who is killed each time, for want of memory perhaps, is not to be tried for ever
SINCE = timedelta(days=1)  # after which nobody waits for it any more
PAUSE = timedelta(minutes=1)  # before each time, for who was away to be well again


def put_back(server: PrefectServer, not_closed: Collection[str]) -> Iterator[str]:
    """Let go on, of each name, the retraining that began last, where it was cut off; gives their names.

    Not one that lives or that somebody has cancelled, nor where another one is under way. Those of
    `not_closed` live, whatever Prefect says, or are closed before the next look.
    """
    for deployment in server.deployments():
        run = server.last_begun(deployment) if deployment["flow_name"] == "retrain" else None
        if run and run["id"] not in not_closed and _may_go_on(server, run) and not server.is_busy(deployment):
            why = run["state"]["message"] or run["state"]["name"]
            server.put_back(run, moment(run["state"]["timestamp"]) + PAUSE, f"goes on after: {why}")
            yield run["name"]


def _may_go_on(server: PrefectServer, run: Row) -> bool:
    if not _cut_off(run["state"]) or not server.is_over(run):
        return False
    states = server.states(run)
    cancelled = any(state["type"] in ("CANCELLING", "CANCELLED") for state in states)
    return not cancelled and [state["name"] for state in states].count("AwaitingRetry") < AGAIN


def _cut_off(state: Row) -> bool:
    failed = state["type"] == "FAILED" and f" {MachineError.__name__}: " in (state["message"] or "")
    recent = datetime.now(UTC) - moment(state["timestamp"]) < SINCE
    return recent and (failed or state["type"] == "CRASHED")
