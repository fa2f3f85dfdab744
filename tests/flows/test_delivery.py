"""A tracking server that goes away in the middle of a training costs neither the training nor a metric."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from model.home import Home

BIN = Path(sys.executable).parent
EPOCHS = 400


def start_server(home: Home, port: int, clean: dict[str, str]) -> subprocess.Popen[bytes]:
    """An MLflow server on `port` over the store of `home`, as soon as it answers."""
    store = f"sqlite:///{home.root / 'mlflow.db'}"
    options = ["--port", str(port), "--workers", "1", "--backend-store-uri", store]
    server = subprocess.Popen(
        [BIN / "mlflow", "server", *options, "--artifacts-destination", home.artifacts],
        cwd=home.root,
        env=clean | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/health").is_success:
                return server
        assert time.monotonic() < deadline
        time.sleep(0.2)


def kill(server: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(server.pid).children(recursive=True)
    os.killpg(server.pid, signal.SIGKILL)
    psutil.wait_procs([*family, psutil.Process(server.pid)], timeout=10)
    server.wait()


@pytest.fixture
def port() -> int:
    """One that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def epochs_kept(home: Home) -> int:
    """How many epochs the newest checkpoint has."""
    return max((int(path.name[:5]) for path in home.checkpoints.glob("*/*.safetensors")), default=0)


def wait_for_epochs(home: Home, more: int, process: subprocess.Popen[str]) -> None:
    goal = epochs_kept(home) + more
    while epochs_kept(home) < goal:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_every_epoch_once(
    copied: Home, clean: dict[str, str], prefect_page: str, port: int
) -> None:
    """The training goes on meanwhile, and ends well."""
    server = start_server(copied, port, clean)
    words = [
        "train",
        "--dataset",
        "digits",
        "--epochs",
        str(EPOCHS),
        "--patience",
        str(EPOCHS),
        "--threads",
        "1",
    ]
    environment = clean | {
        "RELEARN_HOME": str(copied.root),
        "PREFECT_API_URL": f"{prefect_page}/api",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
    }
    with subprocess.Popen(
        [BIN / "relearn", *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as training:
        wait_for_epochs(copied, 3, training)
        kill(server)
        wait_for_epochs(copied, 5, training)
        server = start_server(copied, port, clean)
        output, errors = training.communicate()
    client = MlflowClient(f"http://127.0.0.1:{port}")
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"params.epochs = '{EPOCHS}'",
    )
    history = client.get_metric_history(run.info.run_id, "val_loss")
    kill(server)

    assert (0, "") == (training.returncode, errors), output
    assert list(range(1, EPOCHS + 1)) == [metric.step for metric in history]
    assert "FINISHED" == run.info.status
    assert [] == list(copied.checkpoints.iterdir())
