"""Runs whose process is gone, which MLflow and Prefect would call running for ever."""

from relearn.flows import process_identity
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.tracking.runs import FLOW_RUN_TAG, close_orphaned_run, find_orphaned_runs, find_running
from relearn.flows.tracking.store import Client
from relearn.model.home import Home
from relearn.model.training.checkpoints import is_locked


def close_orphaned_local(client: Client, server: PrefectApi) -> None:
    """End, in Prefect and in MLflow, those of this machine."""
    for run in find_orphaned_runs(client):
        # Prefect first: once MLflow has closed it, nobody looks for it any more.
        if flow_run_id := run.data.tags.get(FLOW_RUN_TAG):
            server.mark_crashed(flow_run_id, "its process is gone")
        close_orphaned_run(client, run)
        print(f"closed {run.info.run_name}: its process is gone", flush=True)  # noqa: T201


def close_orphaned_remote(client: Client, server: PrefectApi, home: Home) -> None:
    """End, in MLflow, those of other machines that Prefect calls over: such a machine may never come back.

    Not one that still holds its checkpoints: it trains, and Prefect has only not heard of it.
    """
    for run in find_running(client):
        flow_run_id = run.data.tags.get(FLOW_RUN_TAG)
        if flow_run_id and not process_identity.is_this_host(run.data.tags):
            flow_run = server.get_flow_run(flow_run_id)
            if (
                flow_run
                and server.is_finished(flow_run)
                and not is_locked(home.checkpoints / run.info.run_id)
            ):
                close_orphaned_run(client, run)
                print(f"closed {run.info.run_name}: it is over, says Prefect", flush=True)  # noqa: T201


def finish_cancelling(server: PrefectApi) -> None:
    """Let those be cancelled that somebody cancels and nobody runs: no process is there to end them."""
    for deployment in server.list_deployments():
        for run in server.list_stuck_cancelling(deployment):
            server.mark_cancelled(run)
            print(f"closed {run['name']}: it was cancelled, and nobody ran it", flush=True)  # noqa: T201


def open_flow_runs(client: Client) -> set[str]:
    """The flow runs of which MLflow has a run that it calls running."""
    return {run.data.tags[FLOW_RUN_TAG] for run in find_running(client) if FLOW_RUN_TAG in run.data.tags}
