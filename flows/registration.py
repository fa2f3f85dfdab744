"""`python -m relearn.flows.registration NAME`: prepare a name for runners without one.

It waits for Prefect's server, as long as that takes to start.
"""

import sys
from argparse import ArgumentParser

from relearn.flows.ending import ended
from relearn.flows.runner import prepared


def main() -> None:
    """See that Prefect's server has what runners need for the name."""
    parser = ArgumentParser(
        "python -m relearn.flows.registration", description="See that a name can be retrained."
    )
    parser.add_argument("name", help="what to train and serve")
    name = parser.parse_args().name
    prepared()
    from prefect.settings import PREFECT_API_URL

    from relearn.flows.orchestration import wait_for
    from relearn.flows.schedule import ready
    from relearn.model.datasets import DATASETS

    wait_for(PREFECT_API_URL.value())
    if not ready(name):
        known = ", ".join(sorted(DATASETS))
        print(f"{name} is retrained once relearn schedule says with what; built in are {known}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(ended(main))
