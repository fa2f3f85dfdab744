"""Runners and what registers a name, started as containers start them: with nothing set but the servers."""

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

from relearn.flows import process_identity
from relearn.flows.ops.services import services
from relearn.flows.ops.supervisor import run_services
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.retrain import retrain
from relearn.flows.scheduling import deployments
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.metrics.textfile_metrics import WORKER_FILE
from tests.flows.conftest import epochs_kept, forget, free_port


def bare() -> dict[str, str]:
    """The environment without what the tools and we read."""
    ours = ("RELEARN_", "PREFECT_", "MLFLOW_", "BENTOML_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def program(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], env=bare() | environment, capture_output=True, text=True, check=False
    )


def test_a_name_is_registered_once_by_itself(on_server: str, tmp_path: Path) -> None:
    """It ends well, and what the runners need is there; nothing is left where it was started but the home."""
    name = "cifar10"
    home = {"RELEARN_HOME": str(tmp_path / "home"), "PREFECT_API_URL": f"{on_server}/api"}
    done = program("relearn.flows.scheduling.runner", "--deploy", name, **home)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    with get_client(sync_client=True) as client:
        assert deployments.find_deployment(client, retrain, name)
    forget(name)
    assert (tmp_path / "home" / "prefect").is_dir()


def test_a_name_that_only_a_plan_can_train_is_told(on_server: str, tmp_path: Path) -> None:
    """It may be one mistyped: what is built in is named."""
    home = {"RELEARN_HOME": str(tmp_path / "home"), "PREFECT_API_URL": f"{on_server}/api"}
    done = program("relearn.flows.scheduling.runner", "--deploy", "minst", **home)
    assert 0 == done.returncode
    assert "minst is retrained once relearn schedule says with what; built in are " in done.stdout
    assert "mnist" in done.stdout.partition("built in")[2]
    forget("minst")


@pytest.mark.parametrize(
    "words",
    [("relearn.flows.scheduling.runner", "--deploy"), ("relearn.flows.scheduling.runner", "two", "names")],
)
def test_other_words_are_refused(words: tuple[str, ...]) -> None:
    """With what is accepted."""
    done = program(*words)
    assert 2 == done.returncode
    assert "usage: python -m relearn.flows." in done.stderr


@pytest.mark.parametrize("words", [("--deploy", "digits"), ()])
def test_what_is_wrong_is_one_line(words: tuple[str, ...]) -> None:
    """As the command line tells it, with its exit code."""
    done = program("relearn.flows.scheduling.runner", *words, RELEARN_HOME="~nobody-of-this-name/home")
    assert 2 == done.returncode
    (line,) = done.stderr.splitlines()
    assert line.startswith("error[user_input]: RELEARN_HOME: got '~nobody-of-this-name/home'")


ENDS = """
import subprocess, threading
from relearn.flows.scheduling import worker

def run(words):
    run = subprocess.Popen(["sh", "-c", words], stdout=subprocess.PIPE, start_new_session=True)
    run.stdout.readline()
    runs.append(run)

runs = []
run("trap 'sleep 1; exit' TERM; echo; sleep 60 & wait")
threading.Timer(0.3, run, ["echo; exec sleep 60"]).start()
worker._stop_runs()
print([one.poll() is not None for one in runs])
"""


def test_what_a_runner_takes_while_it_ends_is_ended_too() -> None:
    """Prefect's worker goes on taking runs until it is cancelled; each is asked to stop, as the first was."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, check=True, timeout=60
    )
    assert "[True, True]" == done.stdout.split("\n")[-2]


@contextmanager
def machine(host: str, home: Home, prefect: str) -> Iterator[subprocess.Popen[bytes]]:
    """A runner on a machine of this name, started as a container starts it."""
    there = {
        "RELEARN_HOME": "home",
        "PREFECT_API_URL": prefect,
        "PREFECT_WORKER_WEBSERVER_PORT": str(free_port()),
    }
    log = (home.root.parent / f"{host}.log").open("wb")
    with log:
        process = subprocess.Popen(
            [
                "unshare",
                "--uts",
                "sh",
                "-c",
                f"hostname {host} && exec {sys.executable} -m relearn.flows.scheduling.runner",
            ],
            cwd=home.root.parent,
            env=bare() | there,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        lose(process)


def lose(process: subprocess.Popen[bytes]) -> None:
    """The machine is gone: the runner, and all that it has started."""
    if process.poll() is None:
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # Prefect takes a machine for lost after three minutes
@pytest.mark.needs("unshare")
def test_a_retraining_goes_on_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that it ran on is gone for good: another one closes what it left, and goes on with it, in the
    same run of MLflow, from its checkpoint."""
    if subprocess.run(["unshare", "--uts", "hostname", "first"], check=False).returncode:
        pytest.skip("only an administrator can give a process another name of the machine")
    home = Home(tmp_path / "home", tmp_path / "home" / "data")
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    monkeypatch.setenv("PREFECT_HOME", str(home.prefect))
    port = free_port()
    flows = next(
        part for part in services(home, "digits", ServeConfig(), port, 1, 2) if part.name == "prefect"
    )
    api = f"http://127.0.0.1:{port}/api"
    with run_services(home, [flows]), temporary_settings({PREFECT_API_URL: api}):
        registered = program(
            "relearn.flows.scheduling.runner",
            "--deploy",
            "digits",
            RELEARN_HOME=str(home.root),
            PREFECT_API_URL=api,
        )
        assert 0 == registered.returncode, registered.stderr
        with machine("first", home, api) as first:
            config = {"dataset": "digits", "epochs": 5_000, "learning_rate": 0.001}
            asked = {"config": config, "networks": ["mlp"]}
            run: FlowRun = run_deployment("retrain/digits", timeout=0, parameters=asked)
            until(lambda: epochs_kept(home) > 3)
            assert {"first"} == set(hosts(home))
            lose(first)
        kept = epochs_kept(home)
        with machine("second", home, api):
            until(lambda: hosts(home) == ["second", "second"], 480)
            assert ["RUNNING", "RUNNING"] == tracked_states(home)
            assert epochs_kept(home) >= kept
            found = PrefectApi(api).get_flow_run(str(run.id))
            assert found
            assert ("RUNNING", 2) == (found["state_type"], found["run_count"])
            until((home.prediction_log_dir("digits") / WORKER_FILE).exists)


def until(true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def everything(home: Home) -> list[MlflowRun]:
    client = connect(home)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(experiments))


def hosts(home: Home) -> list[str]:
    """Where the runs that MLflow has are, or were."""
    return [run.data.tags[process_identity.HOST_TAG] for run in everything(home)]


def tracked_states(home: Home) -> list[str]:
    return [run.info.status for run in everything(home)]
