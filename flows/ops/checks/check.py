"""`CheckResult`, which every check of `relearn doctor` yields, and what several checks share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from relearn.model.errors import InfrastructureError

CheckState = Literal["ok", "skipped", "warning", "failed"]

# The fix for each check that raises an error.
FIXES = {
    "home": "set RELEARN_HOME to a folder on a local disk",
    "keys": "correct the file, or unset RELEARN_API_KEYS_FILE",
    "store": "start the store of MLFLOW_TRACKING_URI, or unset it: runs are then stored in the home",
    "artifacts": "see the log of MLflow's server",
    "server": "start a server there, or unset PREFECT_API_URL: flows then report to a temporary one",
    "servers": "stop the server, and start it again: relearn serve",
}


@dataclass(frozen=True)
class CheckResult:
    """The result of a check about `subject`, a model, server or port; `fix` is what to do about a failure.

    "skipped" means that the subject does not run or exist yet, which is no failure. `run_checks` sets `check`
    and `group`.
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


def find_obstacle(folder: Path) -> Path | None:
    """Return `folder`, or the next path above it that exists, if this user cannot write there; else None."""
    existing_path = next(path for path in (folder, *folder.parents) if path.exists())
    is_writable = existing_path.is_dir() and os.access(existing_path, os.W_OK | os.X_OK)
    return None if is_writable else existing_path
