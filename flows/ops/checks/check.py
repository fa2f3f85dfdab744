"""The result of one check of `relearn doctor`."""

from dataclasses import dataclass
from typing import Literal

from relearn.model.errors import InfrastructureError

CheckState = Literal["ok", "skipped", "warning", "failed"]

# What helps where a check ends by an error.
FIXES = {
    "keys": "put it right, or unset RELEARN_API_KEYS_FILE",
    "store": "start what MLFLOW_TRACKING_URI names, or unset it: runs are then kept in the home",
    "artifacts": "look at the log of MLflow's server",
    "server": "start one there, or unset PREFECT_API_URL: flows then report to a temporary one",
    "servers": "end it, and start it again: relearn serve",
}


@dataclass(frozen=True)
class CheckResult:
    """What one check found, `about` which name, server or port; `mend` says what to do where it is not well.

    `away` is what does not run, or is not there yet: no fault. `check` and `seam` are filled in by `examine`.
    """

    state: CheckState
    message: str
    fix: str = ""
    subject: str = ""
    exit_code: int = InfrastructureError.exit_code
    check: str = ""
    group: str = ""


def ok(message: str, subject: str = "") -> CheckResult:
    return CheckResult("ok", message, subject=subject)


def skipped(message: str, subject: str = "") -> CheckResult:
    return CheckResult("skipped", message, subject=subject)


def warning(message: str, fix: str, subject: str = "") -> CheckResult:
    return CheckResult("warning", message, fix, subject)


def failed(
    message: str, fix: str, subject: str = "", exit_code: int = InfrastructureError.exit_code
) -> CheckResult:
    return CheckResult("failed", message, fix, subject, exit_code)
