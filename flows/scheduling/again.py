"""A retraining that was cut off goes on: it is due once more, for whichever runner takes it.

Cut off is one whose process or machine is gone, which Prefect calls crashed; and one that failed by a
`MachineError`, such as a server that is away: what was asked for was not wrong. What a runner took and never
began, a retraining or not, is due once more too.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

from relearn.flows.orchestration.prefect_api import JsonObject, PrefectApi, parse_time
from relearn.model.errors import InfrastructureError

MAX_RETRIES = 2  # times; who is killed each time, for want of memory perhaps, is not to be tried for ever
RETRY_MESSAGE_PREFIX = "goes on after: "  # what we say of each time
MAX_AGE = timedelta(days=1)  # after which nobody waits for it any more
RETRY_DELAY = timedelta(minutes=1)  # before each time, for who was away to be well again


def reschedule_interrupted(server: PrefectApi, open_flow_run_ids: Collection[str]) -> Iterator[str]:
    """Let go on what never began and, of each name, the retraining that began last, where it was cut off.

    Not one that lives or that somebody has cancelled, nor where another one is under way. Those of
    `not_closed` live, whatever Prefect says, or are closed before the next look. Says a line of each.
    """
    for deployment in server.list_deployments():
        for run in _find_interrupted(server, deployment, open_flow_run_ids):
            if server.is_busy(deployment):
                break
            reason = run["state"]["message"] or run["state"]["name"]
            server.reschedule(
                run, parse_time(run["state"]["timestamp"]) + RETRY_DELAY, RETRY_MESSAGE_PREFIX + reason
            )
            yield f"{run['name']} {RETRY_MESSAGE_PREFIX}{reason}"


def _find_interrupted(
    server: PrefectApi, deployment: JsonObject, open_flow_run_ids: Collection[str]
) -> Iterator[JsonObject]:
    yield from (run for run in server.list_stuck_pending(deployment) if _can_retry(server, run))
    run = server.find_last_started(deployment) if deployment["flow_name"] == "retrain" else None
    is_interrupted = (
        run
        and run["id"] not in open_flow_run_ids
        and _is_interrupted(run["state"])
        and server.is_finished(run)
    )
    if run and is_interrupted and _can_retry(server, run):
        yield run


def _can_retry(server: PrefectApi, run: JsonObject) -> bool:
    """Whether nobody has cancelled it, and it did not go on too often."""
    states = server.list_states(run)
    is_cancelled = any(state["type"] in ("CANCELLING", "CANCELLED") for state in states)
    retry_count = sum((state["message"] or "").startswith(RETRY_MESSAGE_PREFIX) for state in states)
    return not is_cancelled and retry_count < MAX_RETRIES


def _is_interrupted(state: JsonObject) -> bool:
    is_infrastructure_failure = state["type"] == "FAILED" and f" {InfrastructureError.__name__}: " in (
        state["message"] or ""
    )
    is_recent = datetime.now(UTC) - parse_time(state["timestamp"]) < MAX_AGE
    return is_recent and (is_infrastructure_failure or state["type"] == "CRASHED")
