"""The policy for runs whose process is gone, over all states, and its table."""

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.flows.scheduling.recovery_policy import (
    CLAIM_GRACE,
    CLAIM_TIMEOUT,
    HEARTBEAT_TIMEOUT,
    MAX_AGE,
    MAX_RETRIES,
    RETRY_MESSAGE_PREFIX,
    History,
    RunRecord,
    choose_step,
)

OPEN_STATES = ("PENDING", "RUNNING", "PAUSED", "CANCELLING")
STATES = (*OPEN_STATES, "SCHEDULED", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
MOMENT = timedelta(seconds=1)
FAILURES = ("", "Flow run encountered an exception: InfrastructureError: away")
HISTORIES = (None, History([("RUNNING", "")]), History([("CANCELLING", "")]), History([], has_successor=True))


def read_table() -> list[list[str]]:
    """Return the rows of the table in the docstring: state, process, condition, step, effect."""
    lines = [line.strip() for line in (choose_step.__doc__ or "").splitlines()]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return rows[2:]


def fits(row: list[str], run: RunRecord) -> bool:
    """Return whether a row of the table applies to a run."""
    state, process, condition, *_ = row
    conditions = {
        "": True,
        "it is RUNNING in MLflow": run.is_open_in_mlflow,
        "due again, no other run is open": run.history is not None
        and not run.history.refuse_retry()
        and not run.is_deployment_busy,
    }
    states = {
        "any": True,
        "any other, or unknown": True,
        "FAILED by infrastructure": run.state == "FAILED" and "InfrastructureError" in run.message,
    }
    fits_state = states[state] if state in states else run.state in state.split(", ")
    return fits_state and (process == "any" or run.is_gone == (process == "gone")) and conditions[condition]


def test_table_is_the_policy() -> None:
    """For each state, process, store, history and message the first row that fits has the step."""
    table = read_table()
    assert 7 == len(table)
    used = set()
    for state, process, quiet_for, is_open, history, is_busy, message in itertools.product(
        ("", *STATES),
        ("alive", "gone", "unseen"),
        (timedelta(0), HEARTBEAT_TIMEOUT, CLAIM_TIMEOUT),
        (False, True),
        HISTORIES,
        (False, True),
        FAILURES,
    ):
        run = RunRecord(state, process, quiet_for, message, is_open, history, is_busy)  # type: ignore[arg-type]
        row = next(row for row in table if fits(row, run))
        used.add(tuple(row))
        assert row[3] == choose_step(run), run
    assert len(table) == len(used)


@pytest.mark.parametrize(
    ("state", "process", "timeout"),
    [
        ("RUNNING", "unseen", HEARTBEAT_TIMEOUT),
        ("CRASHED", "unseen", HEARTBEAT_TIMEOUT),
        ("PENDING", "unseen", CLAIM_TIMEOUT),
        ("PENDING", "gone", CLAIM_GRACE),
    ],
)
def test_process_is_gone_after_a_time(state: str, process: str, timeout: timedelta) -> None:
    """Its process may be alive: unseen from this machine, or about to begin a run that was just claimed."""
    run = RunRecord(state, process, timeout - MOMENT)  # type: ignore[arg-type]
    assert not run.is_gone
    assert replace(run, quiet_for=timeout).is_gone


def test_process_that_ended_here_is_gone_at_once() -> None:
    """A run that Prefect does not know has no heartbeat: it is gone only if that is seen."""
    assert RunRecord("RUNNING", "gone").is_gone
    assert RunRecord("", "gone").is_gone
    assert not RunRecord("", "unseen", MAX_AGE).is_gone
    assert not RunRecord("RUNNING", "alive", MAX_AGE).is_gone


@pytest.mark.parametrize(
    ("history", "refusal"),
    [
        (History([("RUNNING", "")]), ""),
        (History([("", RETRY_MESSAGE_PREFIX)] * (MAX_RETRIES - 1)), ""),
        (History([("", RETRY_MESSAGE_PREFIX)] * MAX_RETRIES), "it was resumed 2 times"),
        (History([("CANCELLING", "")]), "it was cancelled"),
        (History([("CANCELLED", "")]), "it was cancelled"),
        (History([], has_successor=True), "a later one has begun"),
        (History([], interrupted_for=MAX_AGE), "it is older than a day"),
    ],
)
def test_refusal_of_a_retry_has_a_reason(history: History, refusal: str) -> None:
    """A retraining resumes twice at most, within a day, not if it was cancelled or overtaken."""
    assert refusal == history.refuse_retry()


def take(step: str, run: RunRecord) -> RunRecord:
    """Return the record after a step, as the stores would say."""
    if step == "close":
        return replace(run, is_open_in_mlflow=False)
    state = {"crash": "CRASHED", "cancel": "CANCELLED", "retry": "SCHEDULED"}[step]
    return replace(run, state=state)


@given(
    st.builds(
        RunRecord,
        st.sampled_from(("", *STATES)),
        st.just("gone"),
        st.just(CLAIM_TIMEOUT),
        st.sampled_from(FAILURES),
        st.booleans(),
        st.sampled_from(HISTORIES),
        st.booleans(),
    )
)
def test_steps_end_with_a_run_that_is_closed_in_both_stores(run: RunRecord) -> None:
    """Three steps at most, whatever the run; a retry comes after MLflow is closed.

    Each step depends on what is stored alone, so that a reconciler that dies after any of them is continued
    by the next one.
    """
    steps = []
    while (step := choose_step(run)) != "leave":
        assert step != "retry" or not run.is_open_in_mlflow
        steps.append(step)
        run = take(step, run)
        assert len(steps) <= 3
    assert run.state not in OPEN_STATES
    assert not run.is_open_in_mlflow
