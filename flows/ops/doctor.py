"""`relearn doctor`: runs the checks of `relearn.flows.ops.checks`, each with a time limit.

A check takes the home, yields one or more results, and changes nothing.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from relearn.flows.ops.checks.check import FIXES, CheckResult, failed
from relearn.flows.process import environment
from relearn.flows.process.import_errors import describe_import_error
from relearn.flows.process.system_limits import check_first_thread
from relearn.flows.process.timeouts import iterate_with_timeout
from relearn.model.errors import CorruptDataError, RelearnError
from relearn.model.home import Home

CheckFunction = Callable[[Home], Iterator[CheckResult]]

# Per check. Requests end within 3 s by limits of their own; importing Prefect takes 16 s from a cold disk.
CHECK_TIMEOUT_SECONDS = 60.0
# Modules of `relearn.flows.ops.checks` with their functions, in the order in which they run.
CHECKS = {
    "system": ("versions", "home", "folders", "disk", "limits", "loopback", "ports", "keys"),
    "device": ("device",),
    "mlflow": ("store", "experiments", "artifacts", "aliases"),
    "prefect": ("settings", "database", "server", "worker", "automation", "next_run", "late_runs"),
    "runs": ("interrupted",),
    "releases": ("ledger", "live", "bento", "servers"),
}
PREREQUISITES = ("store", "server")  # if one of them is not ok, the rest of its group is not run


def run_checks(home: Home) -> Iterator[CheckResult]:
    """Run all checks in order; yields each result as soon as it is known.

    Raises `InfrastructureError` if no thread can be started, in which checks run.
    """
    check_first_thread()
    for group, checks in CHECKS.items():
        for check in checks:
            states = set()
            for result in run_check(home, group, check):
                states.add(result.state)
                yield replace(result, check=check, group=group)
            if check in PREREQUISITES and states != {"ok"}:
                break


def run_check(home: Home, group: str, check: str) -> Iterator[CheckResult]:
    """Run one check; an error or a timeout of the check is a result too."""
    try:
        function: CheckFunction = getattr(importlib.import_module(f"relearn.flows.ops.checks.{group}"), check)
    except Exception as error:
        yield failed(describe_import_error(error) or f"cannot be checked: {error!r}", "see versions")
        return
    try:
        with environment.short_mlflow_timeouts():
            yield from iterate_with_timeout(CHECK_TIMEOUT_SECONDS, partial(function, home))
    except TimeoutError as error:
        yield failed(f"{error}: the disk hangs or the machine is overloaded", FIXES.get(check, ""))
    except CorruptDataError as error:
        yield failed(str(error), FIXES.get(check, ""), exit_code=error.exit_code)
    except (RelearnError, OSError) as error:
        yield failed(str(error), FIXES.get(check, ""))
    except Exception as error:
        yield failed(describe_import_error(error) or f"the check itself failed, {error!r}", "")
