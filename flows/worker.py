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

from relearn.flows import rounds
from relearn.flows.orchestration import wait_for
from relearn.flows.prefect_server import POOL
from relearn.flows.schedule import ready
from relearn.model.datasets import DATASETS
from relearn.model.home import Home

AT_ONCE = 2  # runs: a retraining, and the watch beside it
ENDING = 12.0  # seconds that a run has to stop; `relearn up` gives the runner 20


def work(home: Home, name: str | None) -> None:
    """Run what is due until SIGTERM; with a name, see first that its retraining can be."""
    wait_for(PREFECT_API_URL.value())
    if name:
        deploy(name)
    threading.Thread(target=rounds.for_ever, args=(home,), daemon=True).start()
    with suppress(asyncio.CancelledError):
        asyncio.run(_work())
    rounds.attempt(rounds.close, home)


def deploy(name: str) -> None:
    """See that Prefect's server has what runners need for `name`, as soon as it answers."""
    wait_for(PREFECT_API_URL.value())
    if not ready(name):
        known = ", ".join(sorted(DATASETS))
        print(f"{name} is retrained once relearn schedule says with what; built in are {known}")  # noqa: T201


async def _work() -> None:
    worker = ProcessWorker(POOL, name=f"relearn on {socket.gethostname()}", limit=AT_ONCE)
    work = asyncio.create_task(worker.start(with_healthcheck=True))
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    ended = asyncio.create_task(asked.wait())
    await asyncio.wait([work, ended], return_when=asyncio.FIRST_COMPLETED)
    if asked.is_set():
        await asyncio.to_thread(_end_runs)
        work.cancel()
    await work


def _end_runs() -> None:
    """Let the runs stop where they can go on, each asked once; those of our group are, when we are.

    Meanwhile the worker takes others: they are asked too.
    """
    asked: set[psutil.Process] = set()
    until = time.monotonic() + ENDING
    while (runs := psutil.Process().children(recursive=True)) and time.monotonic() < until:
        for run in {*runs} - asked:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(run.pid) != os.getpgid(0):
                    run.terminate()
            asked.add(run)
        psutil.wait_procs(runs, 0.5)
