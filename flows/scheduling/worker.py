"""The worker: a process that runs what Prefect's server schedules, and reconciles interrupted runs.

`python -m relearn.flows.scheduling.worker [NAME]` starts it; any number of workers may share a home. With
NAME it first ensures the deployments of this model; `--deploy NAME` does only that. `relearn up` keeps one
worker alive. Each run is a process of its own. If a run is killed, the worker reports it to Prefect at once;
if the worker is killed with its runs, the next worker finds them.

Prefect is imported by the functions that use it, after `prepare_worker_environment`.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
import warnings
from argparse import ArgumentParser
from contextlib import suppress

import psutil
from anyio.abc import TaskStatus

from relearn.flows.orchestration.prefect_api import PROCESS_LABEL, WORK_POOL, PrefectApi
from relearn.flows.process import environment
from relearn.flows.process.shutdown import run_with_exit_code
from relearn.model.data.builtin import DATASETS
from relearn.model.home import Home
from relearn.model.process_identity import identify_process

MAX_RUNS = 2  # a retraining, and the monitor at the same time
STOP_TIMEOUT_SECONDS = 12.0  # for the runs to stop; `relearn up` gives the worker 20
LAST_ROUND_SECONDS = 5.0  # it takes 0.1 s; what it leaves, the next worker does


def main() -> None:
    """Run scheduled flows until SIGTERM, or only deploy the flows of a model."""
    parser = ArgumentParser(
        "python -m relearn.flows.scheduling.worker", description="Run scheduled flows until SIGTERM."
    )
    parser.add_argument("name", nargs="?", help="model whose flows are deployed before the worker starts")
    parser.add_argument("--deploy", metavar="NAME", help="deploy the flows of the model NAME, and end")
    arguments, home = parser.parse_args(), prepare_worker_environment()
    if arguments.deploy:
        deploy(arguments.deploy)
    else:
        run_worker(home, arguments.name)


def prepare_worker_environment() -> Home:
    """Set the environment variables of the worker, its runs and their tools; return the home."""
    home = Home.from_environment()
    environment.set_tool_defaults(home)
    home.prefect.mkdir(0o700, parents=True, exist_ok=True)  # Prefect looks for it when it is imported
    defaults = {
        "PREFECT_API_URL": PrefectApi.from_environment(home).api_url,
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        # No user waits at a terminal: requests are retried for four minutes instead of one.
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        # The response of Prefect's server while it cannot reach its database.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ |= {"RELEARN_HOME": str(home.root), "RELEARN_DATA": str(home.data)}
    os.chdir(home.prefect)  # Prefect reads settings from files of the current folder
    return home


def run_worker(home: Home, name: str | None) -> None:
    """Run scheduled flows until SIGTERM; with `name`, first ensure the deployments of this model."""
    from relearn.flows.orchestration.connect import wait_for_server
    from relearn.flows.scheduling.reconcile import run_rounds

    wait_for_server(os.environ["PREFECT_API_URL"])
    if name:
        deploy(name)
    stopped = threading.Event()
    rounds = threading.Thread(target=run_rounds, args=(home, stopped), daemon=True)
    rounds.start()
    with suppress(asyncio.CancelledError):
        asyncio.run(_run_prefect_worker())
    stopped.set()
    rounds.join(LAST_ROUND_SECONDS)  # it closes the runs that ended with this worker


def deploy(name: str) -> None:
    """Ensure the work pool and the deployments of model `name` as soon as Prefect's server answers."""
    from relearn.flows.orchestration.connect import wait_for_server
    from relearn.flows.scheduling.deployments import ensure_deployments

    wait_for_server(os.environ["PREFECT_API_URL"])
    if not ensure_deployments(name):
        datasets = ", ".join(sorted(DATASETS))
        print(  # noqa: T201
            f"{name} is not retrained yet: it is no built-in dataset ({datasets});"
            f" relearn schedule --model-name {name} deploys it"
        )


async def _run_prefect_worker() -> None:
    from prefect.client.schemas.objects import FlowRun
    from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

    with warnings.catch_warnings(action="ignore"):  # a worker of the same type is known already

        class Worker(ProcessWorker):
            async def run(
                self,
                flow_run: FlowRun,
                configuration: ProcessJobConfiguration,
                task_status: TaskStatus[int] | None = None,
            ) -> ProcessWorkerResult:
                # If this worker dies before the flow begins, the run is closed; see `record_process`.
                await self.client.update_flow_run_labels(flow_run.id, {PROCESS_LABEL: identify_process()})
                return await super().run(flow_run, configuration, task_status)

    worker = Worker(WORK_POOL, name=f"relearn on {socket.gethostname()}", limit=MAX_RUNS)
    worker_task = asyncio.create_task(worker.start(with_healthcheck=True))
    stop_requested = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop_requested.set)
    stop_task = asyncio.create_task(stop_requested.wait())
    await asyncio.wait([worker_task, stop_task], return_when=asyncio.FIRST_COMPLETED)
    if stop_requested.is_set():
        await asyncio.to_thread(_stop_runs)
        worker_task.cancel()
    await worker_task


def _stop_runs() -> None:
    """Send SIGTERM to each run once, so that it stops at its next checkpoint, and wait for all of them.

    Runs in our process group get the signal with us. Prefect's worker keeps taking runs meanwhile: those are
    stopped too.
    """
    signaled_runs: set[psutil.Process] = set()
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while (runs := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for run in {*runs} - signaled_runs:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(run.pid) != os.getpgid(0):
                    run.terminate()
            signaled_runs.add(run)
        psutil.wait_procs(runs, 0.5)


if __name__ == "__main__":
    sys.exit(run_with_exit_code(main))
