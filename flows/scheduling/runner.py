"""The worker process: runs what Prefect's server schedules, and reconciles interrupted runs.

`python -m relearn.flows.scheduling.runner [NAME]` starts it; any number of workers may share a home. With
NAME it first makes sure that this model can be retrained; `--deploy NAME` does only that. `relearn up` keeps
one worker alive. Each run is a process of its own. If a run is killed, the worker reports it to Prefect at
once; if the worker is killed with its runs, the next worker finds them.
"""

import os
import sys
from argparse import ArgumentParser

from relearn.flows import environment
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.shutdown import run_with_exit_code
from relearn.model.home import Home


def main() -> None:
    """Run what is due until SIGTERM, or only deploy the flows of a name."""
    parser = ArgumentParser(
        "python -m relearn.flows.scheduling.runner", description="Run what is due until SIGTERM."
    )
    parser.add_argument("name", nargs="?", help="what can be retrained from the start")
    parser.add_argument("--deploy", metavar="NAME", help="see that NAME can be retrained, and end")
    asked, home = parser.parse_args(), prepare_worker_environment()
    from relearn.flows.scheduling.worker import deploy, run_worker

    deploy(asked.deploy) if asked.deploy else run_worker(home, asked.name)


def prepare_worker_environment() -> Home:
    """The home; what the tools, the runner and its runs read from the environment is set before."""
    home = Home.from_environment()
    environment.set_tool_defaults(home)
    home.prefect.mkdir(0o700, parents=True, exist_ok=True)  # Prefect looks for it when it is imported
    defaults = {
        "PREFECT_API_URL": PrefectApi.from_environment(home).api_url,
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        # Nobody waits at a terminal: a server that is away is asked for four minutes, not for one.
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        # What it says while its database is away.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ |= {"RELEARN_HOME": str(home.root), "RELEARN_DATA": str(home.data)}
    os.chdir(home.prefect)  # Prefect reads settings from files of the current folder
    return home


if __name__ == "__main__":
    sys.exit(run_with_exit_code(main))
