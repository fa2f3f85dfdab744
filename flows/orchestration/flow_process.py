"""The process behind a flow run: a label in Prefect, and its temporary files."""

from typing import Any

from prefect import Flow, State, get_client
from prefect.client.schemas.objects import FlowRun

from relearn.flows.orchestration.prefect_api import PROCESS_LABEL
from relearn.flows.process.temporary_files import use_own_folder
from relearn.model.process_identity import identify_process


def record_process(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Label the flow run with this process when it begins, and give the process a folder of its own.

    Once the process is gone, the reconciler closes the run and deletes the folder.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, {PROCESS_LABEL: identify_process()})
    use_own_folder()
