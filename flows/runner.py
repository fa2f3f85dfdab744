"""The runner: takes runs that are due from Prefect's server, and closes those whose process is gone.

`python -m flows.runner NAME`, kept alive by `relearn up`. A run is a process of its own. Of one that was
killed the runner tells Prefect at once; when it was killed itself, with its runs, the next runner finds what
they left, by the number of the process that MLflow keeps.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from uuid import UUID

import psutil
from prefect import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from flows.orchestration import wait_for
from flows.prefect_server import POOL
from flows.schedule import ready
from flows.store import connect
from flows.tracking import FLOW_RUN, close_lost_run, lost_runs
from model.home import Home

ENDING = 12.0  # seconds that a run has to stop; `relearn up` gives the runner 20
EVERY = 20.0  # seconds between two looks for lost runs


def main(name: str) -> None:
    """Run what is due until SIGTERM."""
    home = Home.from_environment()
    wait_for(PREFECT_API_URL.value())
    ready(name)
    threading.Thread(target=_close_for_ever, args=(home,), daemon=True).start()
    with suppress(asyncio.CancelledError):
        asyncio.run(_work())
    close(home)


async def _work() -> None:
    worker = ProcessWorker(POOL, name=f"relearn on {socket.gethostname()}")
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
    """Let the runs stop where they can go on; they are asked at the same time as we, as one group."""
    runs = psutil.Process().children(recursive=True)
    for run in runs:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(run.pid) != os.getpgid(0):
                run.terminate()
    psutil.wait_procs(runs, ENDING)


def _close_for_ever(home: Home) -> None:
    while True:
        try:
            close(home)
        except Exception as error:  # who is away is asked again
            print(f"lost runs cannot be closed: {error}", flush=True)  # noqa: T201
        time.sleep(EVERY)


def close(home: Home) -> None:
    """End, in MLflow and in Prefect, the runs of this machine whose process is gone."""
    client = connect(home)
    for run in lost_runs(client):
        # Prefect first: once MLflow has closed it, nobody looks for it any more.
        if flow_run := run.data.tags.get(FLOW_RUN):
            _crash(UUID(flow_run))
        close_lost_run(client, run)
        print(f"closed {run.info.run_name}: its process is gone", flush=True)  # noqa: T201


def _crash(flow_run: UUID) -> None:
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        state = client.read_flow_run(flow_run).state
        if state is None or not state.is_final():
            client.set_flow_run_state(flow_run, Crashed(message="its process is gone"), force=True)


if __name__ == "__main__":
    main(sys.argv[1])
