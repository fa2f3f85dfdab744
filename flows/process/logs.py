"""Logs of the libraries, which `--verbose` shows."""

import logging
import os
import sys

QUIET_LEVELS = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    # These log a traceback for errors that are raised too, and then printed as one line.
    "mlflow.store.db": logging.CRITICAL,
    "mlflow.system_metrics": logging.CRITICAL,
}


def show_logs() -> None:
    """Print the logs of all libraries, from level INFO on, to standard error."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s")


def silence_mlflow() -> None:
    """Silence MLflow's logs, unless `show_logs` was called."""
    if not logging.root.isEnabledFor(logging.INFO):
        for name, level in QUIET_LEVELS.items():
            logging.getLogger(name).setLevel(level)
