"""Workers and `--deploy`, started as containers start them: only the URLs of the servers are set."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run as MlflowRun
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import run_services
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import deployments
from relearn.flows.tracking.runs import PROCESS_TAG
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.model.ports import find_free_port
from relearn.serving.config import ServeConfig
from relearn.serving.metrics.textfile_metrics import WORKER_FILE
from tests.flows.conftest import epochs_kept, forget


def clean_environment() -> dict[str, str]:
    """Return the environment without variables of the tools and of Relearn."""
    prefixes = ("RELEARN_", "PREFECT_", "MLFLOW_", "BENTOML_")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def program(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_deploy_creates_the_deployments_and_ends(on_server: str, tmp_path: Path) -> None:
    """It prints nothing, and leaves no file outside of the home."""
    name = "cifar10"
    home = {"RELEARN_HOME": str(tmp_path / "home"), "PREFECT_API_URL": f"{on_server}/api"}
    done = program("relearn.flows.scheduling.worker", "--deploy", name, **home)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    with get_client(sync_client=True) as client:
        assert deployments.find_deployment(client, retrain, name)
    forget(name)
    assert (tmp_path / "home" / "prefect").is_dir()


@pytest.mark.slow
def test_deploy_names_the_built_in_datasets_for_another_name(on_server: str, tmp_path: Path) -> None:
    """The name may be a typing error; else `relearn schedule` deploys it."""
    home = {"RELEARN_HOME": str(tmp_path / "home"), "PREFECT_API_URL": f"{on_server}/api"}
    done = program("relearn.flows.scheduling.worker", "--deploy", "minst", **home)
    assert 0 == done.returncode
    assert "minst is not retrained yet: it is no built-in dataset (" in done.stdout
    assert "mnist" in done.stdout.partition("built-in")[2]
    assert "relearn schedule --model-name minst deploys it" in done.stdout
    forget("minst")


@pytest.mark.parametrize(
    "words",
    [
        ("relearn.flows.scheduling.worker", "--deploy"),
        pytest.param(("relearn.flows.scheduling.worker", "two", "names"), marks=pytest.mark.slow),
    ],
)
def test_other_arguments_are_rejected(words: tuple[str, ...]) -> None:
    """The usage is printed."""
    done = program(*words)
    assert 2 == done.returncode
    assert "usage: python -m relearn.flows." in done.stderr


@pytest.mark.parametrize("words", [("--deploy", "digits"), pytest.param((), marks=pytest.mark.slow)])
def test_invalid_setting_is_one_line(words: tuple[str, ...]) -> None:
    """The message and the exit code are those of the command line."""
    done = program("relearn.flows.scheduling.worker", *words, RELEARN_HOME="~nobody-of-this-name/home")
    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert line.startswith("error[user_input]: RELEARN_HOME: got '~nobody-of-this-name/home'")


STOP_RUNS = """
import subprocess, threading
from relearn.flows.scheduling import worker

def start_run(words):
    run = subprocess.Popen(
        ["sh", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    run.stdout.readline()
    runs.append(run)
    return run

def claim_another():
    first.stdout.readline()
    start_run("echo; exec sleep 60")
    first.stdin.close()

runs = []
first = start_run("trap 'echo stopping; read _; exit' TERM; echo; sleep 60 & wait")
threading.Thread(target=claim_another).start()
worker._stop_runs()
print([run.poll() is not None for run in runs])
"""


def test_runs_claimed_during_shutdown_are_stopped_too() -> None:
    """Prefect's worker keeps claiming runs until it is cancelled; each of them gets SIGTERM."""
    done = subprocess.run(
        [sys.executable, "-c", STOP_RUNS], capture_output=True, text=True, check=True, timeout=60
    )
    assert "[True, True]" == done.stdout.split("\n")[-2]


@contextmanager
def run_worker_on(host: str, home: Home, prefect: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker on a machine of this name, started as a container starts it."""
    variables = {
        "RELEARN_HOME": "home",
        "PREFECT_API_URL": prefect,
        "PREFECT_WORKER_WEBSERVER_PORT": str(find_free_port()),
    }
    log = (home.root.parent / f"{host}.log").open("wb")
    with log:
        process = subprocess.Popen(
            [
                "unshare",
                "--uts",
                "sh",
                "-c",
                f"hostname {host} && exec {sys.executable} -m relearn.flows.scheduling.worker",
            ],
            cwd=home.root.parent,
            env=clean_environment() | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill the worker and all that it has started, as if its machine were gone."""
    if process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # Prefect takes three minutes to notice a lost machine
@pytest.mark.needs("unshare")
def test_retraining_of_a_lost_machine_is_resumed_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker closes the lost run, and resumes it from its checkpoint in the same run of MLflow."""
    if subprocess.run(["unshare", "--uts", "hostname", "first"], check=False).returncode:
        pytest.skip("only an administrator can give a process another name of the machine")
    home = Home(tmp_path / "home", tmp_path / "home" / "data")
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    monkeypatch.setenv("PREFECT_HOME", str(home.prefect))
    port = find_free_port()
    prefect_server = next(
        service
        for service in services(home, "digits", ServeConfig(), port, 1, 2)
        if service.name == "prefect"
    )
    api = f"http://127.0.0.1:{port}/api"
    with run_services(home, [prefect_server]), temporary_settings({PREFECT_API_URL: api}):
        deployed = program(
            "relearn.flows.scheduling.worker",
            "--deploy",
            "digits",
            RELEARN_HOME=str(home.root),
            PREFECT_API_URL=api,
        )
        assert 0 == deployed.returncode, deployed.stderr
        with run_worker_on("first", home, api) as first:
            config = {"dataset": "digits", "epochs": 5_000, "learning_rate": 0.001}
            parameters = {"config": config, "networks": ["mlp"]}
            run: FlowRun = run_deployment("retrain/digits", timeout=0, parameters=parameters)
            until(lambda: epochs_kept(home) > 3)
            assert {"first"} == set(hosts(home))
            kill_tree(first)
        saved_epochs = epochs_kept(home)
        with run_worker_on("second", home, api):
            until(lambda: hosts(home) == ["second", "second"], 480)
            assert ["RUNNING", "RUNNING"] == mlflow_statuses(home)
            assert epochs_kept(home) >= saved_epochs
            flow_run = PrefectApi(api).get_flow_run(str(run.id))
            assert flow_run
            assert ("RUNNING", 2) == (flow_run["state_type"], flow_run["run_count"])
            until((home.prediction_log_dir("digits") / WORKER_FILE).exists)


def until(condition: Callable[[], bool], timeout_seconds: float = 300) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def mlflow_runs(home: Home) -> list[MlflowRun]:
    client = connect(home)
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids))


def hosts(home: Home) -> list[str]:
    """Return the machine of each run in MLflow."""
    return [run.data.tags[PROCESS_TAG].partition("/")[0] for run in mlflow_runs(home)]


def mlflow_statuses(home: Home) -> list[str]:
    return [run.info.status for run in mlflow_runs(home)]
