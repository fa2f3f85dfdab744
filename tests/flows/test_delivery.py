"""A tracking server in trouble in the middle of a training costs neither the training nor a metric."""

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
    """An MLflow server at `url` over the store of `home`, as soon as it answers."""
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
    family = psutil.Process(server.pid).children(recursive=True)
    os.killpg(server.pid, signal.SIGKILL)
    psutil.wait_procs([*family, psutil.Process(server.pid)], timeout=10)
    server.wait()


class Door(BaseHTTPRequestHandler):
    """Listens at `outer` and hands on to the server at `inner`; answers `status` itself while that is set."""

    inner: str
    outer: str
    status: int | None = None

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        if self.status is None:
            answer = httpx.request(
                self.command, self.inner + self.path, content=body, headers=headers, timeout=60
            )
            self.give(answer.status_code, answer.content, answer.headers.get("Content-Type", "text/plain"))
        else:
            self.give(self.status, b"{}", "application/json")

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815  # http.server's names

    def give(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def door(port: int) -> Iterator[type[Door]]:
    """One of this test's own, open."""

    class Own(Door): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        Own.outer = f"http://127.0.0.1:{server.server_port}"
        Own.inner = f"http://127.0.0.1:{port}"
        threading.Thread(target=server.serve_forever).start()
        yield Own
        server.shutdown()


def start_training(
    home: Home, clean: dict[str, str], prefect_page: str, door: type[Door]
) -> subprocess.Popen[str]:
    """A long training that reports to `door`, three epochs later."""
    many = str(EPOCHS)
    words = ["train", "--dataset", "digits", "--threads", "1", "--epochs", many, "--patience", many]
    environment = clean | {
        "RELEARN_HOME": str(home.root),
        "PREFECT_API_URL": f"{prefect_page}/api",
        "MLFLOW_TRACKING_URI": door.outer,
    }
    training = subprocess.Popen(
        [BIN / "relearn", *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_epochs(home, 3, training)
    return training


@contextlib.contextmanager
def in_trouble(
    trouble: str, home: Home, clean: dict[str, str], prefect_page: str, door: type[Door]
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[bytes]]]:
    """A training whose tracking server got into trouble five epochs ago, and that server."""
    server = start_server(home, door.inner, clean)
    with start_training(home, clean, prefect_page, door) as training:
        if trouble == "killed":
            kill(server)
        elif trouble == "hanging":
            os.killpg(server.pid, signal.SIGSTOP)
        else:
            door.status = int(trouble)
        wait_for_epochs(home, 5, training)
        yield training, server


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["killed", "hanging", "500", "429"])
def test_a_server_in_trouble_has_every_epoch_once_in_the_end(
    trouble: str, copied: Home, clean: dict[str, str], prefect_page: str, door: type[Door]
) -> None:
    """The training goes on meanwhile, and ends well."""
    with in_trouble(trouble, copied, clean, prefect_page, door) as (training, broken):
        server = start_server(copied, door.inner, clean) if trouble == "killed" else broken
        if trouble == "hanging":
            os.killpg(server.pid, signal.SIGCONT)
        door.status = None
        output, errors = training.communicate()
    client = MlflowClient(door.inner)
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


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["killed", "hanging"])
def test_a_server_in_trouble_does_not_hold_up_who_wants_to_stop(
    trouble: str, copied: Home, clean: dict[str, str], prefect_page: str, door: type[Door]
) -> None:
    """Within ten seconds, with the exit code of the signal and the way to go on."""
    with in_trouble(trouble, copied, clean, prefect_page, door) as (training, server):
        training.send_signal(signal.SIGTERM)
        _, errors = training.communicate(timeout=10)
    kill(server)
    (run_folder,) = copied.checkpoints.iterdir()
    advice = f"relearn train --resume {run_folder.name[:8]} goes on"
    assert (143, f"error[stopped]: terminated by a signal; {advice}\n") == (training.returncode, errors)
