"""The train flow: what its run contains, and how failures and signals end it."""

import os
import shutil
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
from relearn.flows.orchestration.prefect_api import PrefectApi
from relearn.flows.scheduling.reconcile import reconcile
from relearn.flows.tracking import registry
from relearn.flows.tracking.run_names import build_train_run_name
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.training import checkpoints

RELEARN = str(Path(sys.executable).with_name("relearn"))
SIGNALS = {"terminated": signal.SIGTERM, "killed": signal.SIGKILL}

CUSTOM_NETWORK = """
from torch import nn


class Tiny(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        channels, height, width = shape
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))

    def forward(self, images):
        return self.layers(images)
"""


def search_experiment(client: MlflowClient, name: str) -> list[MlflowRun]:
    experiment = client.get_experiment_by_name(name)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def list_files(client: MlflowClient, run_id: str, folder: str = "") -> set[str]:
    """Return the paths of all files of a run."""
    entries = client.list_artifacts(run_id, folder)
    nested = [list_files(client, run_id, entry.path) for entry in entries if entry.is_dir]
    return {entry.path for entry in entries if not entry.is_dir}.union(*nested)


@pytest.fixture(scope="module")
def mlp(ran) -> MlflowRun:
    """The run of the mlp in the home of `ran`."""
    runs = search_experiment(connect(ran.home), "digits")
    return next(run for run in runs if run.data.params.get("network") == "mlp")


def last_flow_run(url: str, name: str) -> dict:
    query = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_DESC", "limit": 1}
    return httpx.post(f"{url}/api/flow_runs/filter", json=query).json()[0]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"hidden_sizes": (784, 512), "optimizer": "rmsprop", "learning_rate": 0.001, "seed": 3},
         "mlp 784 512 · rmsprop 0.001 · seed 3"),
        ({"network": "cnn", "optimizer": "sgd", "learning_rate": 0.1}, "cnn · sgd 0.1 · seed 0"),
        ({"network": "mine.nets:Tiny", "optimizer": "sgd", "learning_rate": 1e-05},
         "mine.nets:Tiny · sgd 1e-05 · seed 0"),
    ],
)  # fmt: skip
def test_run_name_describes_the_training(settings: dict, name: str) -> None:
    """It has network, widths if any, optimizer, learning rate and seed."""
    assert name == build_train_run_name(TrainConfig(**settings))


def test_run_has_its_settings_as_params(mlp: MlflowRun) -> None:
    """Every config field is a param under its name, and so is the number of weights."""
    config = TrainConfig(dataset="digits", epochs=3)
    expected = config.model_dump(exclude_none=True) | {"hidden_sizes": "512", "parameters": 407_050}

    assert {name: str(value) for name, value in expected.items()} == mlp.data.params


def test_run_has_the_documented_metrics(ran, mlp: MlflowRun) -> None:
    """Every network has the same keys; MLflow shows best/ and epoch/ first, gradients last."""
    test_metrics = (
        *("accuracy", "accuracy_low", "accuracy_high", "images", "groups"),
        *("loss", "f1_macro", "precision_macro", "recall_macro", "ece"),
    )
    keys = {key for key in mlp.data.metrics if key.startswith(("best/", "epoch/", "test/"))}
    prefixes = {key.split("/")[0] for key in mlp.data.metrics}

    assert {
        *("epoch/train_loss", "epoch/train_accuracy", "epoch/val_loss", "epoch/val_accuracy"),
        *("epoch/val_balanced_accuracy", "epoch/learning_rate"),
        *("best/epoch", "best/val_loss", "best/val_accuracy", "best/val_balanced_accuracy"),
        *("best/generalization_gap", "test/generalization_gap"),
        *(f"test/{key}" for key in test_metrics),
    } == keys
    # The gate logs `robustness/` for the candidate.
    assert ["best", "epoch", "test", "time", "training"] == sorted(prefixes - {"robustness"})
    gradients = {f"training/gradients/{name}" for name in ("hidden1/dead_fraction", "output/delta")}
    assert gradients <= set(mlp.data.metrics)
    history = connect(ran.home).get_metric_history(mlp.info.run_id, "epoch/val_accuracy")
    assert [1, 2, 3] == [metric.step for metric in history]


def test_run_has_its_data_as_inputs(mlp: MlflowRun) -> None:
    """Each split is a dataset input with its context; the full fingerprint is a tag of the run."""
    inputs = mlp.inputs.dataset_inputs
    contexts = {tag.value for item in inputs for tag in item.tags if tag.key == "mlflow.data.context"}

    assert {"training", "validation", "test"} == contexts
    assert 64 == len(mlp.data.tags["fingerprint"])
    assert {mlp.data.tags["fingerprint"][:36]} == {item.dataset.digest for item in inputs}


def test_run_has_its_figures_tables_and_tags(ran, mlp: MlflowRun) -> None:
    """The description of the run starts with its test accuracy."""
    assert {
        *("curves.png", "history.csv"),
        "data/images.csv",
        *("network/architecture.png", "network/layers.csv"),
        *("gradients/flow.png", "gradients/health.csv"),
        *("test/confusion.png", "test/per_class.png", "test/calibration.png", "test/worst_mistakes.png"),
        *("test/per_class.csv", "test/mistakes.csv"),
    } == {file for file in list_files(connect(ran.home), mlp.info.run_id) if not file.startswith("gate/")}
    tags = mlp.data.tags
    assert ("train", "digits", "all epochs done") == (
        tags["relearn.job_type"], tags["dataset"], tags["stop_reason"]
    )  # fmt: skip
    assert tags["device"]
    assert 40 == len(tags["mlflow.source.git.commit"])
    accuracy, low, high = (100 * mlp.data.metrics[f"test/accuracy{end}"] for end in ("", "_low", "_high"))
    expected = f"**{accuracy:.1f} % (95 % interval {low:.1f}–{high:.1f}, 292 images)**"
    assert tags["mlflow.note.content"].startswith(f"Test accuracy on digits {expected}")


def test_custom_network_is_trained_and_saved_with_its_source(
    copied: Home,
    on_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`relearn train` accepts a class from the current folder and prints the run id."""
    (tmp_path / "mine.py").write_text(CUSTOM_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    command = ["train", "--dataset", "digits", "--network", "mine:Tiny", "--epochs", "2"]
    assert 0 == run_command_line([*command, "--model-name", "own"])

    printed = capsys.readouterr()
    (run,) = search_experiment(connect(copied), "own")
    assert "" == printed.err
    assert (
        f"Run {run.info.run_id[:8]}, best epoch {run.data.metrics['best/epoch']:.0f} of 2: all epochs done."
        in printed.out
    )
    assert ("FINISHED", "7850") == (run.info.status, run.data.params["parameters"])
    folder = registry.download_classifier(connect(copied), run.info.run_id, tmp_path / "fetched")
    assert CUSTOM_NETWORK == (folder / "network.py").read_text()
    images = np.zeros((2, 1, 28, 28), np.uint8)
    assert (2, 10) == Classifier.load(folder).predict(images).shape
    assert "COMPLETED" == last_flow_run(on_server, "train mine:Tiny on digits")["state"]["type"]


def test_data_of_another_scale_than_the_live_version_are_rejected(
    ran, copied: Home, on_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`relearn train` under the name of a released classifier refuses fractions before any training."""
    shutil.copytree(ran.home.root / "releases", copied.root / "releases")
    before = len(search_experiment(connect(copied), "digits"))
    images = np.random.default_rng(0).random((90, 28, 28))
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(90) % 10)

    command = ["train", "--dataset", f"npz:{tmp_path / 'own.npz'}", "--model-name", "digits"]
    assert 2 == run_command_line(command)
    assert "1 is white in the data, accepted: 255, as in the data of digits" in capsys.readouterr().err
    assert before == len(search_experiment(connect(copied), "digits"))


def test_other_classes_than_those_of_the_live_version_are_told_before_training(
    ran, copied: Home, on_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`relearn run`, which could release nothing without a 9, refuses; `relearn train` warns and trains."""
    shutil.copytree(ran.home.root / "releases", copied.root / "releases")
    before = len(search_experiment(connect(copied), "digits"))
    images = np.random.default_rng(0).integers(0, 256, (90, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.array([*"012345678", "nine"])[np.arange(90) % 10])
    data = ["--dataset", f"npz:{tmp_path / 'own.npz'}", "--model-name", "digits", "--epochs", "1"]
    line = (
        "not those of digits 1, which is live (new: nine; missing: 9; was 9 renamed to nine?). No classifier"
    )

    assert 2 == run_command_line(["run", *data])
    assert line in capsys.readouterr().err
    assert before == len(search_experiment(connect(copied), "digits"))
    assert 0 == run_command_line(["train", *data])
    assert line in " ".join(capsys.readouterr().out.split())
    assert before + 1 == len(search_experiment(connect(copied), "digits"))


def test_diverging_training_fails_in_mlflow_and_prefect(
    copied: Home, on_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints one line; its run is FAILED with the reason in MLflow and in Prefect."""
    command = ["train", "--dataset", "digits", "--model-name", "wild", "--epochs", "40"]
    rates = [
        "--learning-rate",
        "10",
        "--lr-schedule",
        "constant",
        "--momentum",
        "0.99",
        "--weight-decay",
        "1",
    ]
    assert 2 == run_command_line([*command, *rates])

    (run,) = search_experiment(connect(copied), "wild")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error[non_finite_loss]: loss: got ")
    assert line.endswith("accepted: finite numbers; try a learning rate below 10")
    assert "FAILED" == run.info.status
    assert f"UserInputError: {line.partition(': ')[2]}" == run.data.tags["relearn.failure_reason"]
    tensors = checkpoints.load_checkpoint(copied.checkpoints / run.info.run_id).checkpoint.snapshot.tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    state = last_flow_run(on_server, "train mlp on digits")["state"]
    assert ("FAILED", True) == (state["type"], "loss: got" in state["message"])


@dataclass(frozen=True)
class StoppedTraining:
    """End of `relearn train` after a signal, and its child processes."""

    exit_code: int
    errors: str
    seconds: float
    children: list[psutil.Process]


@pytest.fixture(scope="module")
def stopping_home(copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Home of the trainings below, with the database and prepared data of `ran`."""
    return copy(tmp_path_factory.mktemp("stopping") / "home")


@pytest.fixture(scope="module")
def stopped(stopping_home: Home, clean: dict[str, str], prefect_server: str) -> dict[str, StoppedTraining]:
    """Two trainings of many epochs, each sent its signal after the first epoch.

    The terminated one reports to the shared Prefect server, the killed one to a temporary server.
    """
    processes = {name: start(name, stopping_home, clean, prefect_server) for name in SIGNALS}
    client = connect(stopping_home)
    deadline = time.monotonic() + 120
    while not all(
        any("epoch/val_loss" in run.data.metrics for run in search_experiment(client, name))
        for name in SIGNALS
    ):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes.values())
        time.sleep(0.2)
    return {name: stop(process, SIGNALS[name]) for name, process in processes.items()}


def start(name: str, home: Home, clean: dict[str, str], prefect_server: str) -> subprocess.Popen[str]:
    environment = clean | {"RELEARN_HOME": str(home.root), "OMP_NUM_THREADS": "1"}
    if name == "terminated":
        environment |= {"PREFECT_API_URL": f"{prefect_server}/api"}
    command = ["train", "--dataset", "digits", "--epochs", "9999", "--patience", "9999", "--model-name", name]
    return subprocess.Popen(
        [RELEARN, *command],
        env=environment | {"PREFECT_HOME": str(home.root / name)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal signals the whole process group
    )


def stop(process: subprocess.Popen[str], signal_number: signal.Signals) -> StoppedTraining:
    children = psutil.Process(process.pid).children(recursive=True)
    start_time = time.monotonic()
    os.killpg(process.pid, signal_number)
    errors = process.communicate(timeout=60)[1]
    return StoppedTraining(process.returncode, errors, time.monotonic() - start_time, children)


@pytest.mark.slow
def test_signal_stops_a_training_as_killed(stopped: dict[str, StoppedTraining], stopping_home: Home) -> None:
    """Within 30 s, with one line, the exit code of the signal and no child process left."""
    (run,) = search_experiment(connect(stopping_home), "terminated")
    training = stopped["terminated"]

    advice = f"relearn train --resume {run.info.run_id[:8]} resumes it"
    assert (143, f"error[stopped]: terminated by a signal; {advice}\n") == (
        training.exit_code, training.errors
    )  # fmt: skip
    assert training.seconds < 30
    assert "KILLED" == run.info.status
    assert run.info.end_time
    assert [] == psutil.wait_procs(training.children, timeout=10)[1]


@pytest.mark.slow
def test_terminated_flow_is_crashed_in_prefect(
    stopped: dict[str, StoppedTraining], prefect_server: str
) -> None:
    """It does not stay in the state RUNNING."""
    query = {"flow_runs": {"state": {"type": {"any_": ["CRASHED"]}}}}
    crashed = httpx.post(f"{prefect_server}/api/flow_runs/filter", json=query).json()

    names = [run["parameters"]["config"]["model_name"] for run in crashed]
    assert ["terminated"] == [name for name in names if name in SIGNALS]


@pytest.mark.slow
def test_run_of_a_killed_training_is_marked_killed_by_the_next_start(
    stopped: dict[str, StoppedTraining], stopping_home: Home, on_server: str
) -> None:
    """Until then it stays RUNNING; its temporary server ends by itself."""
    assert -9 == stopped["killed"].exit_code
    assert stopped["killed"].children
    assert [] == psutil.wait_procs(stopped["killed"].children, timeout=20)[1]
    (run,) = search_experiment(connect(stopping_home), "killed")
    assert "RUNNING" == run.info.status

    assert ["closed in MLflow"] == [
        message.split(": ")[1].split(",")[0]
        for message in reconcile(stopping_home, PrefectApi(f"{on_server}/api"))
        if message.startswith(run.info.run_name)
    ]
    (run,) = search_experiment(connect(stopping_home), "killed")
    assert "KILLED" == run.info.status
