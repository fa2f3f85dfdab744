"""A failing tracking server does not stop the training and loses no metric."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from relearn.model.home import Home
from tests.flows.conftest import wait_for_epochs

BIN = Path(sys.executable).parent
EPOCHS = 400


def start_server(home: Home, url: str, clean: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start an MLflow server at `url` on the store of `home`; return it as soon as it answers."""
    store = f"sqlite:///{home.root / 'mlflow.db'}"
    options = ["--port", url.rpartition(":")[2], "--workers", "1", "--backend-store-uri", store]
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
            if httpx.get(f"{url}/health").is_success:
                return server
        assert time.monotonic() < deadline
        time.sleep(0.2)


def kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    children = psutil.Process(server.pid).children(recursive=True)
    os.killpg(server.pid, signal.SIGKILL)
    psutil.wait_procs([*children, psutil.Process(server.pid)], timeout=10)
    server.wait()


class Proxy(BaseHTTPRequestHandler):
    """Proxy at `url` for the server at `target_url`; while `status` is set, it answers with that itself."""

    target_url: str
    url: str
    status: int | None = None

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        if self.status is None:
            response = httpx.request(
                self.command, self.target_url + self.path, content=body, headers=headers, timeout=60
            )
            content_type = response.headers.get("Content-Type", "text/plain")
            self.reply(response.status_code, response.content, content_type)
        else:
            self.reply(self.status, b"{}", "application/json")

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815  # http.server's names

    def reply(self, status: int, content: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def proxy(port: int) -> Iterator[type[Proxy]]:
    """A proxy for this test."""

    class LocalProxy(Proxy): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), LocalProxy) as server:
        LocalProxy.url = f"http://127.0.0.1:{server.server_port}"
        LocalProxy.target_url = f"http://127.0.0.1:{port}"
        threading.Thread(target=server.serve_forever).start()
        yield LocalProxy
        server.shutdown()


def start_training(
    home: Home, clean: dict[str, str], prefect_server: str, proxy: type[Proxy]
) -> subprocess.Popen[str]:
    """Start a long training that reports to `proxy`; return it after three epochs."""
    epochs = str(EPOCHS)
    command = ["train", "--dataset", "digits", "--threads", "1", "--epochs", epochs, "--patience", epochs]
    environment = clean | {
        "RELEARN_HOME": str(home.root),
        "PREFECT_API_URL": f"{prefect_server}/api",
        "MLFLOW_TRACKING_URI": proxy.url,
    }
    training = subprocess.Popen(
        [BIN / "relearn", *command],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for_epochs(home, 3, training)
    return training


@contextlib.contextmanager
def training_with_fault(
    fault: str, home: Home, clean: dict[str, str], prefect_server: str, proxy: type[Proxy]
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[bytes]]]:
    """Yield a training, five epochs after a fault of its tracking server, and that server."""
    server = start_server(home, proxy.target_url, clean)
    with start_training(home, clean, prefect_server, proxy) as training:
        if fault == "killed":
            kill(server)
        elif fault == "hanging":
            os.killpg(server.pid, signal.SIGSTOP)
        else:
            proxy.status = int(fault)
        wait_for_epochs(home, 5, training)
        yield training, server


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "hanging", "500", "429"])
def test_every_epoch_is_logged_once_after_a_server_fault(
    fault: str, copied: Home, clean: dict[str, str], prefect_server: str, proxy: type[Proxy]
) -> None:
    """The training continues during the fault, and ends without an error."""
    with training_with_fault(fault, copied, clean, prefect_server, proxy) as (training, broken):
        server = start_server(copied, proxy.target_url, clean) if fault == "killed" else broken
        if fault == "hanging":
            os.killpg(server.pid, signal.SIGCONT)
        proxy.status = None
        output, errors = training.communicate()
    client = MlflowClient(proxy.target_url)
    (run,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"params.epochs = '{EPOCHS}'",
    )
    history = client.get_metric_history(run.info.run_id, "epoch/val_loss")
    kill(server)

    assert (0, "") == (training.returncode, errors), output
    assert list(range(1, EPOCHS + 1)) == [metric.step for metric in history]
    assert "FINISHED" == run.info.status
    assert [] == list(copied.checkpoints.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_server_fault_does_not_delay_a_stop(
    fault: str, copied: Home, clean: dict[str, str], prefect_server: str, proxy: type[Proxy]
) -> None:
    """The training stops within 10 s, with the exit code of the signal and advice how to resume it."""
    with training_with_fault(fault, copied, clean, prefect_server, proxy) as (training, server):
        training.send_signal(signal.SIGTERM)
        _, errors = training.communicate(timeout=10)
    kill(server)
    (run_folder,) = copied.checkpoints.iterdir()
    advice = f"relearn train --resume {run_folder.name[:8]} resumes it"
    assert (143, f"error[stopped]: terminated by a signal; {advice}\n") == (training.returncode, errors)
