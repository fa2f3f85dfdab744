"""One training: what its run holds, and how it ends when it does not end well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from relearn.flows.cli.app import run_command_line
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.flows.train import build_run_name
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.training import checkpoints

RELEARN = str(Path(sys.executable).with_name("relearn"))
SIGNALS = {"terminated": signal.SIGTERM, "interrupted": signal.SIGINT, "killed": signal.SIGKILL}

OWN_NETWORK = """
from torch import nn


class Tiny(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        channels, height, width = shape
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))

    def forward(self, images):
        return self.layers(images)
"""


def named(client: MlflowClient, experiment: str) -> list[MlflowRun]:
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def files(client: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    """The paths of all files of a run."""
    found = client.list_artifacts(run_id, folder)
    inner = [files(client, run_id, one.path) for one in found if one.is_dir]
    return {one.path for one in found if not one.is_dir}.union(*inner)


@pytest.fixture(scope="module")
def mlp(ran) -> MlflowRun:
    """The run of the mlp that `ran` left."""
    runs = named(connect(ran.home), "digits")
    return next(run for run in runs if run.data.params.get("network") == "mlp")


def last_flow_run(page: str, name: str) -> dict:
    asked = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
    return httpx.post(f"{page}/api/flow_runs/filter", json=asked).json()[0]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"hidden_sizes": (784, 512), "optimizer": "rmsprop", "learning_rate": 0.001, "seed": 3},
         "mlp 784 512 · rmsprop 0.001 · seed 3"),
        ({"network": "cnn", "optimizer": "sgd", "learning_rate": 0.1}, "cnn 32 · sgd 0.1 · seed 0"),
        ({"network": "mine.nets:Tiny", "optimizer": "sgd", "learning_rate": 1e-05},
         "mine.nets:Tiny · sgd 1e-05 · seed 0"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_it_is(settings: dict, name: str) -> None:
    """Network, its widths where it has some, rule, rate and seed."""
    assert name == build_run_name(TrainConfig(**settings))


def test_a_run_has_its_settings_as_params(mlp: MlflowRun) -> None:
    """Every field of the config under its own name, as text, and the number of weights."""
    config = TrainConfig.from_preset("default", dataset="digits", epochs=3)
    expected = config.model_dump() | {"hidden_sizes": "512", "conv_channels": "32", "parameters": 407_050}

    assert {name: str(value) for name, value in expected.items()} == mlp.data.params


def test_a_run_has_the_promised_metrics(ran, mlp: MlflowRun) -> None:
    """The same keys for every network; diagnostics stand apart, under gradients/, time/ and system/."""
    plain = {key for key in mlp.data.metrics if "/" not in key}
    apart = {key.split("/")[0] for key in mlp.data.metrics if "/" in key}
    tests = {
        f"test_{key}" for key in ("accuracy", "loss", "f1_macro", "precision_macro", "recall_macro", "ece")
    }

    assert {
        *("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "best_epoch"),
        *("generalization_gap", "test_gap"),
        *tests,
    } == plain
    assert {"gradients", "time", "system"} == apart - {"robustness"}  # which the candidate has from the gate
    assert {"gradients/hidden1/dead", "gradients/output/delta", "time/training_seconds"} <= set(
        mlp.data.metrics
    )
    history = connect(ran.home).get_metric_history(mlp.info.run_id, "val_accuracy")
    assert [1, 2, 3] == [one.step for one in history]


def test_a_run_has_its_data_as_inputs(mlp: MlflowRun) -> None:
    """Each split as a dataset with its use; the fingerprint in full is a tag of the run."""
    uses = {
        tag.value for one in mlp.inputs.dataset_inputs for tag in one.tags if tag.key == "mlflow.data.context"
    }

    assert {"training", "validation", "test"} == uses
    assert 64 == len(mlp.data.tags["fingerprint"])
    assert {mlp.data.tags["fingerprint"][:36]} == {one.dataset.digest for one in mlp.inputs.dataset_inputs}


def test_a_run_has_its_figures_tables_and_tags(ran, mlp: MlflowRun) -> None:
    """What is looked at after a training stands in its run; its first line says how good it is."""
    assert {
        *("curves.png", "history.csv"),
        *("network/architecture.png", "network/layers.csv"),
        *("gradients/flow.png", "gradients/health.csv"),
        *("test/confusion.png", "test/per_class.png", "test/calibration.png", "test/worst_mistakes.png"),
        *("test/per_class.csv", "test/mistakes.csv"),
    } == {file for file in files(connect(ran.home), mlp.info.run_id) if not file.startswith("gate/")}
    tags = mlp.data.tags
    assert ("train", "digits", "all epochs done") == (
        tags["relearn.job_type"], tags["dataset"], tags["stop_reason"]
    )  # fmt: skip
    assert tags["device"]
    assert 40 == len(tags["mlflow.source.git.commit"])
    accuracy = mlp.data.metrics["test_accuracy"]
    assert tags["mlflow.note.content"].startswith(f"**{accuracy:.2%}** of 292 test images of digits right")


def test_a_network_of_ones_own_is_trained_and_kept_with_its_source(
    copied: Home,
    on_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`relearn train` with a class from the working folder; the run's name is printed and found."""
    (tmp_path / "mine.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    words = ["train", "--dataset", "digits", "--network", "mine:Tiny", "--epochs", "2", "--model-name", "own"]
    assert 0 == run_command_line(words)

    said = capsys.readouterr()
    (run,) = named(connect(copied), "own")
    assert "" == said.err
    assert f"Run {run.info.run_id[:8]}, stopped in epoch 2: all epochs done." in said.out
    assert ("FINISHED", "7850") == (run.info.status, run.data.params["parameters"])
    folder = registry.download_classifier(connect(copied), run.info.run_id, tmp_path / "fetched")
    assert OWN_NETWORK == (folder / "network.py").read_text()
    images = np.zeros((2, 1, 28, 28), np.uint8)
    assert (2, 10) == Classifier.load(folder).predict(images).shape
    assert "COMPLETED" == last_flow_run(on_server, "train mine:Tiny on digits")["state"]["type"]


def test_a_training_that_diverges_fails_everywhere(
    copied: Home, on_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on the terminal, FAILED with the reason in MLflow, Failed in Prefect."""
    words = [
        "train",
        "--dataset",
        "digits",
        "--learning-rate",
        "10",
        "--momentum",
        "0.99",
        "--model-name",
        "wild",
    ]
    assert 2 == run_command_line(
        [*words, "--lr-schedule", "constant", "--weight-decay", "1", "--epochs", "40"]
    )

    said = capsys.readouterr()
    (run,) = named(connect(copied), "wild")
    (line,) = said.err.splitlines()
    assert line.startswith("error[non_finite_loss]: loss: got ")
    assert line.endswith("accepted: finite numbers; try a learning rate below 10")
    assert "FAILED" == run.info.status
    assert f"UserInputError: {line.partition(': ')[2]}" == run.data.tags["relearn.failure_reason"]
    last = checkpoints.load_checkpoint(copied.checkpoints / run.info.run_id).checkpoint.snapshot.tensors
    assert all(value.isfinite().all() for value in last.values() if value.is_floating_point())
    state = last_flow_run(on_server, "train mlp on digits")["state"]
    assert ("FAILED", True) == (state["type"], "loss: got" in state["message"])


@dataclass(frozen=True)
class Stopped:
    """How `relearn train` ended after a signal, and the processes it had started."""

    exit_code: int
    errors: str
    seconds: float
    family: list[psutil.Process]


@pytest.fixture(scope="module")
def stopping_home(copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Where the trainings below run: `ran` left it a database and prepared data."""
    return copy(tmp_path_factory.mktemp("stopping") / "home")


@pytest.fixture(scope="module")
def stopped(stopping_home: Home, clean: dict[str, str], prefect_page: str) -> dict[str, Stopped]:
    """Three trainings that would take hours, each sent its signal after the first epoch.

    The one to be terminated reports to the server of the box, the others to temporary servers of their own.
    """
    # A background job of a shell ignores Ctrl-C, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = {name: start(name, stopping_home, clean, prefect_page) for name in SIGNALS}
    signal.signal(signal.SIGINT, before)
    client = connect(stopping_home)
    deadline = time.monotonic() + 120
    while not all(any("val_loss" in run.data.metrics for run in named(client, name)) for name in SIGNALS):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in started.values())
        time.sleep(0.2)
    return {name: stop(process, SIGNALS[name]) for name, process in started.items()}


def start(name: str, home: Home, clean: dict[str, str], prefect_page: str) -> subprocess.Popen[str]:
    environment = clean | {"RELEARN_HOME": str(home.root), "OMP_NUM_THREADS": "1"}
    if name == "terminated":
        environment |= {"PREFECT_API_URL": f"{prefect_page}/api"}
    words = ["train", "--dataset", "digits", "--epochs", "9999", "--patience", "9999", "--model-name", name]
    return subprocess.Popen(
        [RELEARN, *words],
        env=environment | {"PREFECT_HOME": str(home.root / name)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as in a terminal, where a signal goes to all
    )


def stop(process: subprocess.Popen[str], number: signal.Signals) -> Stopped:
    family = psutil.Process(process.pid).children(recursive=True)
    begin = time.monotonic()
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=60)[1]
    return Stopped(process.returncode, errors, time.monotonic() - begin, family)


@pytest.mark.parametrize(
    ("name", "exit_code", "errors"),
    [
        ("terminated", 143, "error[stopped]: terminated by a signal"),
        ("interrupted", 130, "error[stopped]: ended by Ctrl-C"),
    ],
)
def test_a_signal_ends_a_training_as_killed(
    stopped: dict[str, Stopped], stopping_home: Home, name: str, exit_code: int, errors: str
) -> None:
    """Soon, with one line and the exit code of the signal, and without a process left behind."""
    (run,) = named(connect(stopping_home), name)

    advice = f"; relearn train --resume {run.info.run_id[:8]} goes on\n"
    assert (exit_code, errors + advice) == (stopped[name].exit_code, stopped[name].errors)
    assert stopped[name].seconds < 30
    assert "KILLED" == run.info.status
    assert run.info.end_time
    assert [] == psutil.wait_procs(stopped[name].family, timeout=10)[1]


def test_prefect_knows_of_a_terminated_flow(stopped: dict[str, Stopped], prefect_page: str) -> None:
    """It is crashed there, not running for ever."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}}}
    crashed = httpx.post(f"{prefect_page}/api/flow_runs/filter", json=asked).json()

    names = [run["parameters"]["config"]["model_name"] for run in crashed]
    assert ["terminated"] == [name for name in names if name in SIGNALS]


def test_what_was_killed_outright_is_closed_by_the_next_start(
    stopped: dict[str, Stopped], stopping_home: Home
) -> None:
    """Its run stays open until then; its temporary server has ended by itself."""
    assert -9 == stopped["killed"].exit_code
    assert stopped["killed"].family
    assert [] == psutil.wait_procs(stopped["killed"].family, timeout=20)[1]
    (run,) = named(connect(stopping_home), "killed")
    assert "RUNNING" == run.info.status

    Experiment.open_or_create(stopping_home, "killed")
    (run,) = named(connect(stopping_home), "killed")
    assert "KILLED" == run.info.status
