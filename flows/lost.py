"""Runs whose process is gone, which MLflow and Prefect would call running for ever."""

from relearn.flows import owner
from relearn.flows.prefect_server import PrefectServer
from relearn.flows.store import Client
from relearn.flows.tracking import FLOW_RUN, close_lost_run, lost_runs, running
from relearn.model.checkpoints import is_held
from relearn.model.home import Home


def close_here(client: Client, server: PrefectServer) -> None:
    """End, in Prefect and in MLflow, those of this machine."""
    for run in lost_runs(client):
        # Prefect first: once MLflow has closed it, nobody looks for it any more.
        if flow_run := run.data.tags.get(FLOW_RUN):
            server.crash(flow_run, "its process is gone")
        close_lost_run(client, run)
        print(f"closed {run.info.run_name}: its process is gone", flush=True)  # noqa: T201


def close_elsewhere(client: Client, server: PrefectServer, home: Home) -> None:
    """End, in MLflow, those of other machines that Prefect calls over: such a machine may never come back.

    Not one that still holds its checkpoints: it trains, and Prefect has only not heard of it.
    """
    for run in running(client):
        flow_run = run.data.tags.get(FLOW_RUN)
        if flow_run and not owner.here(run.data.tags):
            found = server.run(flow_run)
            if found and server.is_over(found) and not is_held(home.checkpoints / run.info.run_id):
                close_lost_run(client, run)
                print(f"closed {run.info.run_name}: it is over, says Prefect", flush=True)  # noqa: T201


def close_cancelled(server: PrefectServer) -> None:
    """Let those be cancelled that somebody cancels and nobody runs: no process is there to end them."""
    for deployment in server.deployments():
        for run in server.cancelling(deployment):
            server.cancel(run)
            print(f"closed {run['name']}: it was cancelled, and nobody ran it", flush=True)  # noqa: T201


def not_closed(client: Client) -> set[str]:
    """The flow runs of which MLflow has a run that it calls running."""
    return {run.data.tags[FLOW_RUN] for run in running(client) if FLOW_RUN in run.data.tags}
