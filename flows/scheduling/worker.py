"""Prefect's worker: takes runs that are due from the server, each a process of its own."""

import asyncio
import os
import signal
import socket
import threading
import time
from contextlib import suppress

import psutil
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from relearn.flows.orchestration.connect import wait_for_server
from relearn.flows.orchestration.prefect_api import WORK_POOL
from relearn.flows.scheduling import reconcile
from relearn.flows.scheduling.deployments import ensure_deployments
from relearn.model.data.builtin import DATASETS
from relearn.model.home import Home

MAX_RUNS = 2  # runs: a retraining, and the watch beside it
STOP_TIMEOUT = 12.0  # seconds that a run has to stop; `relearn up` gives the runner 20


def run_worker(home: Home, name: str | None) -> None:
    """Run what is due until SIGTERM; with a name, see first that its retraining can be."""
    wait_for_server(PREFECT_API_URL.value())
    if name:
        deploy(name)
    threading.Thread(target=reconcile.run_forever, args=(home,), daemon=True).start()
    with suppress(asyncio.CancelledError):
        asyncio.run(_run_prefect_worker())
    reconcile.run_safely(reconcile.close_orphaned_runs, home)


def deploy(name: str) -> None:
    """See that Prefect's server has what runners need for `name`, as soon as it answers."""
    wait_for_server(PREFECT_API_URL.value())
    if not ensure_deployments(name):
        known = ", ".join(sorted(DATASETS))
        print(f"{name} is retrained once relearn schedule says with what; built in are {known}")  # noqa: T201


async def _run_prefect_worker() -> None:
    worker = ProcessWorker(WORK_POOL, name=f"relearn on {socket.gethostname()}", limit=MAX_RUNS)
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
    """Let the runs stop where they can go on, each asked once; those of our group are, when we are.

    Meanwhile the worker takes others: they are asked too.
    """
    signaled_runs: set[psutil.Process] = set()
    deadline = time.monotonic() + STOP_TIMEOUT
    while (runs := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for run in {*runs} - signaled_runs:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(run.pid) != os.getpgid(0):
                    run.terminate()
            signaled_runs.add(run)
        psutil.wait_procs(runs, 0.5)
