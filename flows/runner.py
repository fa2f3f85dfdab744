"""The runner: takes runs that are due from Prefect's server, and looks after those that were cut off.

`python -m relearn.flows.runner [NAME]`; any number of them may share a home. With a name it sees first
that this can be retrained; `relearn up` keeps one such alive. For runners without one, `--deploy NAME` does
only that. A run is a process of its own. Of one that was
killed the runner tells Prefect at once; when it was killed itself, with its runs, the next runner finds what
they left, by the number of the process that MLflow keeps.
"""

import os
import sys
from argparse import ArgumentParser

from relearn.flows import environment
from relearn.flows.ending import ended
from relearn.flows.prefect_server import PrefectServer
from relearn.model.home import Home


def main() -> None:
    """Run what is due until SIGTERM, or only deploy the flows of a name."""
    parser = ArgumentParser("python -m relearn.flows.runner", description="Run what is due until SIGTERM.")
    parser.add_argument("name", nargs="?", help="what can be retrained from the start")
    parser.add_argument("--deploy", metavar="NAME", help="see that NAME can be retrained, and end")
    asked, home = parser.parse_args(), prepared()
    from relearn.flows.worker import deploy, work

    deploy(asked.deploy) if asked.deploy else work(home, asked.name)


def prepared() -> Home:
    """The home; what the tools, the runner and its runs read from the environment is set before."""
    home = Home.from_environment()
    environment.prepare(home)
    home.prefect.mkdir(0o700, parents=True, exist_ok=True)  # Prefect looks for it when it is imported
    ours = {
        "PREFECT_API_URL": PrefectServer.of(home).api,
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        # Nobody waits at a terminal: a server that is away is asked for four minutes, not for one.
        "PREFECT_CLIENT_MAX_RETRIES": "7",
        # What it says while its database is away.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
    }
    for name, value in ours.items():
        os.environ.setdefault(name, value)
    os.environ |= {"RELEARN_HOME": str(home.root), "RELEARN_DATA": str(home.data)}
    os.chdir(home.prefect)  # Prefect reads settings from files of the current folder
    return home


if __name__ == "__main__":
    sys.exit(ended(main))
