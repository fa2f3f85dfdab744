"""What the tools we build on read from the environment, set before they are imported.

A variable that the user has set stays as it is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from model.home import Home

HEARTBEAT = 30  # seconds, the least that Prefect takes


def prepare(home: Home) -> None:
    """Point Prefect and BentoML into `home`, and keep all of them quiet and at home."""
    for name, value in variables(home).items():
        os.environ.setdefault(name, value)


def variables(home: Home) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(home.prefect),
        "BENTOML_HOME": str(home.bentoml),
        # Whatever runs a flow tells so often that it lives; who is silent for longer is taken for dead.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        # No telemetry: each of the three has its own switch, Prefect's server a second one.
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The page of a run keeps what Prefect says, tracebacks too; the terminal is ours.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # A store that is away is said so within half a minute, not after the default's several.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "PGCONNECT_TIMEOUT": "10",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # Nothing that MLflow loads for us may carry code.
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }


@contextmanager
def impatient() -> Iterator[None]:
    """What is asked of MLflow's server is asked once, and waited for three seconds."""
    asked = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    before = {name: os.environ[name] for name in asked if name in os.environ}
    os.environ.update(asked)
    try:
        yield
    finally:
        for name in asked:
            del os.environ[name]
        os.environ.update(before)
