"""The policy for runs whose process is gone: the next step, and whether a run is due again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from relearn.flows.process.environment import HEARTBEAT_INTERVAL_SECONDS
from relearn.model.errors import InfrastructureError
from relearn.model.process_identity import ProcessState

Step = Literal["leave", "crash", "cancel", "close", "retry"]

# Without a heartbeat for this long a process that cannot be seen is gone. It is longer than a restart of
# Prefect's server, which gets none meanwhile.
HEARTBEAT_TIMEOUT = timedelta(seconds=6 * HEARTBEAT_INTERVAL_SECONDS)
CLAIM_TIMEOUT = timedelta(minutes=10)  # for a worker that does not say who it is to begin a claimed run
# A claimed run has the process of its last attempt until its worker, a second later, has written its own.
CLAIM_GRACE = timedelta(seconds=45)
MAX_RETRIES = 2  # a run that is killed each time, perhaps for want of memory, is not retried forever
RETRY_DELAY = timedelta(minutes=1)  # before each retry, for an unreachable server to come back
MAX_AGE = timedelta(days=1)  # of an interruption; an older run is not retried
RETRY_MESSAGE_PREFIX = "resumes after: "  # begins the message of each rescheduled state


@dataclass(frozen=True)
class History:
    """The history of an interrupted retraining: its states, type and message of each, oldest first.

    `has_successor` says that a later run of the deployment has begun, after this one had.
    """

    states: Sequence[tuple[str, str]]
    has_successor: bool = False
    interrupted_for: timedelta = timedelta(0)

    def refuse_retry(self) -> str:
        """Return why the retraining is not due again; "" if it is."""
        retry_count = sum(message.startswith(RETRY_MESSAGE_PREFIX) for _, message in self.states)
        reasons = {
            "it was cancelled": any(state in ("CANCELLING", "CANCELLED") for state, _ in self.states),
            f"it was resumed {MAX_RETRIES} times": retry_count >= MAX_RETRIES,
            "it is older than a day": self.interrupted_for >= MAX_AGE,
            "a later one has begun": self.has_successor,
        }
        return next((reason for reason, applies in reasons.items() if applies), "")


@dataclass(frozen=True)
class RunRecord:
    """State of a run, as Prefect, MLflow and the machine know it.

    `state` is its type in Prefect, "" if Prefect does not know the run; `quiet_for` the time since the last
    sign of its process: a heartbeat or, of an open run, a change of state. `history` is None for all but
    interrupted retrainings of a deployment.
    """

    state: str
    process: ProcessState
    quiet_for: timedelta = timedelta(0)
    message: str = ""
    is_open_in_mlflow: bool = False
    history: History | None = None
    is_deployment_busy: bool = False

    @property
    def is_gone(self) -> bool:
        """Return whether the process is known to have ended."""
        timeout = CLAIM_TIMEOUT if self.state == "PENDING" else HEARTBEAT_TIMEOUT
        if self.process == "gone":
            return self.state != "PENDING" or self.quiet_for >= CLAIM_GRACE
        # A run that Prefect does not know has no heartbeat.
        return self.process == "unseen" and self.state != "" and self.quiet_for >= timeout

    @property
    def is_interrupted(self) -> bool:
        return self.state == "CRASHED" or (
            self.state == "FAILED" and f" {InfrastructureError.__name__}: " in self.message
        )


def choose_step(run: RunRecord) -> Step:
    """Return the next step for a run. The steps of a run follow each other until it is left.

    The process of a run is gone if it does not run on this machine; one that cannot be seen from here, if
    the run has been quiet for `HEARTBEAT_TIMEOUT`. The first row that fits counts:

    | state in Prefect         | process  | and                              | step   | sets                 |
    |--------------------------|----------|----------------------------------|--------|----------------------|
    | any                      | not gone |                                  | leave  |                      |
    | CANCELLING               | gone     |                                  | cancel | CANCELLED in Prefect |
    | PENDING, RUNNING, PAUSED | gone     |                                  | crash  | CRASHED in Prefect   |
    | any other, or unknown    | gone     | it is RUNNING in MLflow          | close  | KILLED in MLflow     |
    | CRASHED                  | gone     | due again, no other run is open  | retry  | SCHEDULED in Prefect |
    | FAILED by infrastructure | gone     | due again, no other run is open  | retry  | SCHEDULED in Prefect |
    | any other, or unknown    | gone     |                                  | leave  |                      |

    A run is due again, a minute later, if `History.refuse_retry` has no reason. A step leaves what the next
    one is found by: whoever dies in between, the next pass goes on. MLflow is closed before a retry opens the
    same run again.
    """
    if not run.is_gone:
        return "leave"
    if run.state == "CANCELLING":
        return "cancel"
    if run.state in ("PENDING", "RUNNING", "PAUSED"):
        return "crash"
    if run.is_open_in_mlflow:
        return "close"
    is_due = run.is_interrupted and run.history and not run.history.refuse_retry()
    return "retry" if is_due and not run.is_deployment_busy else "leave"
