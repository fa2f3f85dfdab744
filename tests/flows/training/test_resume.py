"""An interrupted training is resumed in its run and ends with the same weights."""

import os
import pkgutil
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from prefect import flow

from relearn.flows.cli.app import run_command_line
from relearn.flows.feedback.decisions import DecisionLog, LabelCorrection, collect_feedback_images
from relearn.flows.results import TrainResult
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import RESULT_TAG, Experiment
from relearn.flows.tracking.store import connect
from relearn.flows.train import load_data, train_and_evaluate
from relearn.flows.training.resume import EpochLog, ResumableRun
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.training.state import TrainingSnapshot
from tests.flows.conftest import report_to

Capture = pytest.CaptureFixture[str]
RELEARN = str(Path(sys.executable).parent / "relearn")
EPOCHS = 5
SETTINGS = {"dataset": "digits", "threads": 1, "patience": 99, "hidden_sizes": (32,), "epochs": EPOCHS}
COMMAND = [
    *("train", "--dataset", "digits", "--threads", "1", "--patience", "99", "--hidden-sizes", "32"),
    *("--epochs", str(EPOCHS)),
]

pytestmark = pytest.mark.usefixtures("on_server")


@pytest.fixture(autouse=True)
def _accept_ctrl_c() -> Iterator[None]:
    """Accept SIGINT, which a background job of a shell ignores, as its children do."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def uninterrupted(
    copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory, prefect_server: str
):
    """Weights of the training below without an interruption."""
    home = copy(tmp_path_factory.mktemp("uninterrupted") / "home")
    earlier_run_ids = find_run_ids(home)
    with report_to(prefect_server), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEARN_HOME", str(home.root))
        assert 0 == run_command_line(COMMAND)
    (run_id,) = find_run_ids(home) - earlier_run_ids
    return load_weights(home, run_id)


def environment(home: Home, prefect_server: str) -> dict[str, str]:
    return {**os.environ, "RELEARN_HOME": str(home.root), "PREFECT_API_URL": f"{prefect_server}/api"}


def find_run_ids(home: Home) -> set[str]:
    client = connect(home)
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], "tags.`relearn.job_type` = 'train'")
    return {run.info.run_id for run in runs}


def load_weights(home: Home, run_id: str) -> dict[str, torch.Tensor]:
    folder = home.root / "fetched" / run_id
    registry.download_classifier(connect(home), run_id, folder)
    return dict(Classifier.load(folder).network.state_dict())


def assert_complete(home: Home, run_id: str, expected: dict[str, torch.Tensor]) -> None:
    """Assert the same weights, every epoch once, a finished run and no temporary files."""
    client = connect(home)
    for key in ("epoch/val_loss", "epoch/train_accuracy"):
        assert list(range(1, EPOCHS + 1)) == [
            metric.step for metric in client.get_metric_history(run_id, key)
        ]
    assert "FINISHED" == client.get_run(run_id).info.status
    weights = load_weights(home, run_id)
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())
    assert 1 == len(client.get_metric_history(run_id, "test/accuracy"))
    assert [] == list(home.checkpoints.glob("*"))
    assert [] == list(home.root.rglob("*.tmp"))


def when_saved(home: Home, epoch: int, action: Callable[[], None]) -> threading.Thread:
    """Call `action` in a thread as soon as a checkpoint of this or a later epoch exists."""

    def is_saved() -> bool:
        return any(int(file.name[:5]) >= epoch for file in home.checkpoints.glob("*/*-*.safetensors"))

    def wait_and_act() -> None:
        deadline = time.monotonic() + 60
        while not is_saved() and time.monotonic() < deadline:
            time.sleep(0.002)
        action()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


@contextmanager
def at_checkpoints(actions: dict[int, Callable[[], None]]) -> Iterator[None]:
    """Call each action once, in the training of this process, after the checkpoint of its epoch."""
    save, pending = ResumableRun.save, dict(actions)

    def save_and_act(run: ResumableRun, snapshot: TrainingSnapshot) -> list[EpochLog]:
        new_logs = save(run, snapshot)
        if action := pending.pop(run.saved_epochs, None):
            action()
        return new_logs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumableRun, "save", save_and_act)
        yield
    assert {} == pending


def interrupt(home: Home, capsys: Capture) -> str:
    """Start a training and press Ctrl-C after three epochs; return the id of its run."""
    with at_checkpoints({3: lambda: os.kill(os.getpid(), signal.SIGINT)}):
        assert 130 == run_command_line(COMMAND)
    (run_folder,) = home.checkpoints.iterdir()
    advice = f"relearn train --resume {run_folder.name[:8]} resumes it"
    assert f"error[stopped]: ended by Ctrl-C; {advice}\n" == capsys.readouterr().err
    assert "KILLED" == connect(home).get_run(run_folder.name).info.status
    return run_folder.name


def run_failing(arguments: list[str], exit_code: int, capsys: Capture) -> list[str]:
    capsys.readouterr()
    assert exit_code == run_command_line(arguments)
    return capsys.readouterr().err.splitlines()


def test_training_is_resumed_in_its_run_after_ctrl_c(
    copied: Home, uninterrupted: dict[str, torch.Tensor], capsys: Capture
) -> None:
    """It ends with the same weights and each epoch once; a finished training cannot be resumed.

    Feedback that is accepted in the meantime is for the next training.
    """
    run_id = interrupt(copied, capsys)
    images = np.full((5, 1, 28, 28), 255, np.uint8) * np.arange(5, dtype=np.uint8)[:, None, None, None]
    corrections = [
        LabelCorrection.from_feedback(image, "1", "request", 0, reported_at=datetime.now(UTC))
        for image in images
    ]
    assert 5 == len(DecisionLog(copied, "digits").record("accept", corrections))
    assert len(collect_feedback_images(copied, "digits").images)
    assert 0 == run_command_line(["train", "--resume"])
    assert_complete(copied, run_id, uninterrupted)
    (line,) = run_failing(["train", "--resume", run_id[:8]], 2, capsys)
    assert f"error[not_found]: run {run_id[:8]} has no unfinished training in {copied.checkpoints}" == line
    (line,) = run_failing(["train", "--resume"], 2, capsys)
    assert f"error[not_found]: no unfinished training in {copied.checkpoints}" == line


def test_another_config_is_rejected_and_checkpoints_stay(copied: Home, capsys: Capture) -> None:
    """Each setting that differs is reported with both values; equal values are accepted."""
    run_id = interrupt(copied, capsys)
    files = sorted(path.name for path in (copied.checkpoints / run_id).iterdir())
    assert [
        "error[config]: hidden_sizes: got (7,), the checkpoint has (32,)",
        f"error[config]: epochs: got 9, the checkpoint has {EPOCHS}",
    ] == run_failing(
        ["train", "--resume", run_id, "--hidden-sizes", "7", "--epochs", "9", "--seed", "0"], 2, capsys
    )
    assert files == sorted(path.name for path in (copied.checkpoints / run_id).iterdir())
    assert "KILLED" == connect(copied).get_run(run_id).info.status


def test_damaged_checkpoint_is_reported_and_the_previous_one_used(
    copied: Home, uninterrupted: dict[str, torch.Tensor], capsys: Capture
) -> None:
    """The weights are the same; if both are damaged, resuming is rejected."""
    run_id = interrupt(copied, capsys)
    for damaged in sorted((copied.checkpoints / run_id).glob("*.safetensors"))[1:]:
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert 0 == run_command_line(["train", "--resume", run_id])
    assert "is not what was written: its SHA-256" in " ".join(capsys.readouterr().out.split())
    assert_complete(copied, run_id, uninterrupted)

    run_id = interrupt(copied, capsys)
    for damaged in (copied.checkpoints / run_id).glob("*.safetensors"):
        damaged.write_bytes(damaged.read_bytes()[:-1])
    (line,) = run_failing(["train", "--resume", run_id], 4, capsys)
    assert line.startswith(
        f"error[corrupt_data]: no checkpoint in {copied.checkpoints / run_id} can be used: "
    )


@pytest.mark.slow
def test_running_training_cannot_be_resumed(copied: Home, prefect_server: str, capsys: Capture) -> None:
    """The second process is rejected, and the first one continues."""
    endless = [RELEARN, *COMMAND[:-1], "9999", "--no-early-stopping"]
    with subprocess.Popen(endless, env=environment(copied, prefect_server)) as first:
        try:
            when_saved(copied, 1, lambda: None).join()
            (run_folder,) = copied.checkpoints.iterdir()
            (line,) = run_failing(["train", "--resume"], 3, capsys)
            assert line.startswith(
                f"error[infrastructure]: the training of {run_folder} runs in another process"
            )
            assert f"process {first.pid}" in line
            assert "RUNNING" == connect(copied).get_run(run_folder.name).info.status
        finally:
            first.kill()


@pytest.mark.parametrize(
    "function",
    [
        pytest.param("relearn.flows.tracking.registry.mlflow.finalize_logged_model", marks=pytest.mark.slow),
        pytest.param("relearn.flows.tracking.registry.log_classifier", marks=pytest.mark.slow),
        "relearn.flows.train.delete_checkpoints",
    ],
)
def test_results_are_logged_once_after_an_interruption_at_the_end(
    function: str,
    copied: Home,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """Interrupted after the last epoch, the run is FINISHED with one classifier and each test metric once."""
    earlier_run_ids = find_run_ids(copied)
    *module, name = function.split(".")
    owner = pkgutil.resolve_name(".".join(module))
    original = getattr(owner, name)

    def interrupt_call(*arguments: object, **keywords: object) -> None:
        if name == "log_classifier":
            original(*arguments, **keywords)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt_call)
        assert 130 == run_command_line(COMMAND)
    assert 0 == run_command_line(["train", "--resume"])
    (run_id,) = find_run_ids(copied) - earlier_run_ids
    client = connect(copied)
    experiment = client.get_run(run_id).info.experiment_id
    assert 1 == len(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))
    assert 1 == len(client.get_run(run_id).outputs.model_outputs)
    assert_complete(copied, run_id, uninterrupted)


def test_ambiguous_id_prefix_is_rejected(copied: Home, capsys: Capture) -> None:
    """Both ids that match are named."""
    for suffix in ("0", "1"):
        (copied.checkpoints / f"abcdef{suffix}").mkdir(parents=True)
    (line,) = run_failing(["train", "--resume", "abcd"], 2, capsys)
    assert line.endswith("--resume: got 'abcd', which matches abcdef0, abcdef1")


@pytest.mark.slow
def test_second_ctrl_c_stops_at_once_and_loses_no_checkpoint(
    copied: Home, uninterrupted: dict[str, torch.Tensor], prefect_server: str
) -> None:
    """It stops within 20 s, and is resumed from the last checkpoint."""
    with subprocess.Popen([RELEARN, *COMMAND], env=environment(copied, prefect_server)) as training:
        when_saved(copied, 3, lambda: training.send_signal(signal.SIGINT)).join()
        time.sleep(0.02)
        training.send_signal(signal.SIGINT)
        assert 130 == training.wait(20)
    (run_folder,) = copied.checkpoints.iterdir()
    assert 0 == run_command_line(["train", "--resume"])
    assert_complete(copied, run_folder.name, uninterrupted)


@pytest.fixture
def small_files() -> Iterator[Callable[[], None]]:
    """Return a function that limits files of this process to 1000 bytes until the end of the test."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_retry_of_a_flow_resumes_its_training(
    copied: Home, uninterrupted: dict[str, torch.Tensor], small_files: Callable[[], None]
) -> None:
    """An attempt that cannot write loses no earlier epoch and creates no second run."""
    config = TrainConfig.parse(SETTINGS)
    earlier_run_ids, attempts = find_run_ids(copied), 0

    @flow(retries=1)
    def train_with_retry() -> TrainResult:
        nonlocal attempts
        attempts += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return train_and_evaluate(config, load_data(config))

    with at_checkpoints({3: small_files}):
        result = train_with_retry()
    assert 2 == attempts
    assert {result.run_id} == find_run_ids(copied) - earlier_run_ids
    assert_complete(copied, result.run_id, uninterrupted)


def test_locked_database_does_not_block_the_training(
    copied: Home, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """Epochs end while the database is locked; afterwards each of them is logged once."""
    earlier_run_ids = find_run_ids(copied)
    database = sqlite3.connect(
        copied.root / "mlflow.db", isolation_level=None, timeout=30, check_same_thread=False
    )
    unlock = threading.Timer(1, lambda: database.execute("rollback"))
    actions = {2: lambda: database.execute("begin exclusive"), EPOCHS: unlock.start}
    with closing(database), at_checkpoints(actions):
        assert 0 == run_command_line(COMMAND)
        unlock.join()
    (run_id,) = find_run_ids(copied) - earlier_run_ids
    assert_complete(copied, run_id, uninterrupted)


def run_for(home: Home, prefect_server: str, run_id: str | None, seconds: float) -> int:
    """Start a training, or resume `run_id`; kill it after `seconds`; return the exit code."""
    command = COMMAND if run_id is None else ["train", "--resume", run_id]
    with subprocess.Popen([RELEARN, *command], env=environment(home, prefect_server)) as process:
        try:
            exit_code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            exit_code = process.wait()
    assert exit_code in (0, -signal.SIGKILL)
    return exit_code


def train_with_random_kills(home: Home, prefect_server: str, generator: random.Random) -> str | None:
    """Kill and resume a training until it ends; return its run id, or None if killed before a checkpoint."""
    earlier_run_ids = find_run_ids(home)
    exit_code = run_for(home, prefect_server, None, generator.uniform(2, 12))
    if not list(home.checkpoints.glob("*/*.safetensors")) and exit_code != 0:
        client = connect(home)
        run_ids = find_run_ids(home) - earlier_run_ids
        return next((run_id for run_id in run_ids if RESULT_TAG in client.get_run(run_id).data.tags), None)
    (run_id,) = find_run_ids(home) - earlier_run_ids
    for attempt in range(20):
        if exit_code == 0 or not list(home.checkpoints.glob("*/*.safetensors")):  # killed after the last step
            return run_id
        # More time on each attempt, so that a slow machine ends the training too.
        exit_code = run_for(home, prefect_server, run_id, generator.uniform(4, 14 + 2 * attempt))
    raise AssertionError("the training did not end within 20 attempts")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.series) for seed in range(1, 8))])
def test_random_kills_do_not_change_the_result(
    seed: int, copied: Home, uninterrupted: dict[str, torch.Tensor], prefect_server: str
) -> None:
    """However often a training is killed, it ends with the same weights and each epoch once."""
    run_id = train_with_random_kills(copied, prefect_server, random.Random(seed))
    if run_id is None:
        assert [] == list(copied.checkpoints.glob("*/*.safetensors"))
        return
    Experiment.open_or_create(copied, "digits")  # the next start marks lost runs as killed
    assert_complete(copied, run_id, uninterrupted)
