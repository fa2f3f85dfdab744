"""The runner: takes runs that are due from Prefect's server, and closes those whose process is gone.

`python -m flows.runner NAME`, kept alive by `relearn up`. A run is a process of its own. Of one that was
killed the runner tells Prefect at once; when it was killed itself, with its runs, the next runner finds what
they left, by the number of the process that MLflow keeps.
"""

import asyncio
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from uuid import UUID

from prefect import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from prefect.workers.process import ProcessWorker

from flows.orchestration import wait_for
from flows.prefect_server import POOL
from flows.schedule import ready
from flows.store import connect
from flows.tracking import close_lost_runs
from model.errors import RelearnError
from model.home import Home

EVERY = 20.0  # seconds between two looks for lost runs


def main(name: str) -> None:
    """Run what is due until SIGTERM."""
    home = Home.from_environment()
    wait_for(PREFECT_API_URL.value())
    ready(name)
    threading.Thread(target=_close_for_ever, args=(home,), daemon=True).start()
    with suppress(asyncio.CancelledError):
        asyncio.run(_work())


async def _work() -> None:
    worker = ProcessWorker(POOL, name=f"relearn on {socket.gethostname()}")
    work = asyncio.create_task(worker.start(with_healthcheck=True))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    await work


def _close_for_ever(home: Home) -> None:
    while True:
        with suppress(RelearnError):  # a store that is away is asked again
            close(home)
        time.sleep(EVERY)


def close(home: Home) -> None:
    """End, in MLflow and in Prefect, the runs of this machine whose process is gone."""
    for run in close_lost_runs(connect(home)):
        print(f"closed {run.name}: its process is gone", flush=True)  # noqa: T201  # into the runner's log
        if run.flow_run:
            _crash(UUID(run.flow_run))


def _crash(flow_run: UUID) -> None:
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        state = client.read_flow_run(flow_run).state
        if state is None or not state.is_final():
            client.set_flow_run_state(flow_run, Crashed(message="its process is gone"), force=True)


if __name__ == "__main__":
    main(sys.argv[1])
