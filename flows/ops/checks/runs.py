"""The check of runs whose process is gone."""

from collections.abc import Iterator

from relearn.flows.ops.checks.check import CheckResult, ok, skipped, warning
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.scheduling.reconcile import Reconciler, Run
from relearn.flows.scheduling.recovery_policy import choose_step
from relearn.flows.tracking.store import connect_existing
from relearn.model.errors import InfrastructureError, NotFoundError
from relearn.model.home import Home


def interrupted(home: Home) -> Iterator[CheckResult]:
    """Report runs whose process is gone and that are still open in Prefect or in MLflow."""
    try:
        client = connect_existing(home)
    except NotFoundError as error:
        yield skipped(str(error))
        return
    except InfrastructureError:
        yield skipped("see store")
        return
    prefect_api = PrefectApi.from_environment(home)
    is_up = prefect_api.get_state() == "up"
    reconciler = Reconciler(home, client, prefect_api if is_up else None)
    runs = reconciler.list_runs()
    open_runs = [run for run in runs if choose_step(reconciler.read_record(run)) not in ("leave", "retry")]
    for run in open_runs:
        stores = ", ".join(_describe_states(run))
        yield warning(f"{run.name} is {stores}, and its process is gone", _suggest_fix(home, run))
    if not open_runs:
        yield ok("the process of every open run exists")


def _describe_states(run: Run) -> Iterator[str]:
    if run.flow_run:
        yield f"{run.flow_run['state']['type']} in Prefect"
    if run.open_runs:
        yield "RUNNING in MLflow"


def _suggest_fix(home: Home, run: Run) -> str:
    for open_run in run.open_runs:
        if (home.checkpoints / open_run.info.run_id).is_dir():
            return f"relearn train --resume {open_run.info.run_id[:8]} continues it"
    return "the worker of relearn up closes it, and so does the next relearn run"
