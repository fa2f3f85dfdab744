"""Prefect's API as a process that ends with its parent.

`python -m relearn.flows.orchestration.temporary_server PORT` starts it.

Prefect's own temporary server would end on Ctrl-C, before the flow has reported its end, and would run
forever after a kill -9 of the flow.
"""

import os
import signal
import sys
import threading

import uvicorn
from prefect.server.api.server import create_app


def main(port: int) -> None:
    """Serve the API on `port` of this machine until SIGTERM, or until standard input ends."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    uvicorn.run(create_app(ephemeral=True), host="127.0.0.1", port=port, log_level="error")


def _exit_with_parent() -> None:
    # The pipe closes however the parent dies. `sys.stdin` is not used: if the server fails to start, the lock
    # that this thread holds would crash the interpreter and hide the reason.
    while os.read(0, 4096):
        pass
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except PermissionError:  # the container allows no signals
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
