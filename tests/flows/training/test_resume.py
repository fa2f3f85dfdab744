"""A training that was cut off goes on in its own run, to the weights that it would have had."""

import os
import pkgutil
import random
import re
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
from relearn.flows.feedback.decisions import DecisionLog, LabelCorrection, collect_extra_images
from relearn.flows.results import TrainResult
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import RESULT_TAG, Experiment
from relearn.flows.tracking.store import connect
from relearn.flows.train import load_data, train_and_evaluate
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier

Capture = pytest.CaptureFixture[str]
RELEARN = str(Path(sys.executable).parent / "relearn")
EPOCHS = 12
WORDS = ["train", "--dataset", "digits", "--threads", "1", "--patience", "99", "--epochs", str(EPOCHS)]

pytestmark = pytest.mark.usefixtures("on_server")


@pytest.fixture(scope="session")
def uninterrupted(copy: Callable[[Path], Home], tmp_path_factory: pytest.TempPathFactory, prefect_page: str):
    """The weights of the training below when nothing happens to it."""
    home = copy(tmp_path_factory.mktemp("uninterrupted") / "home")
    done = subprocess.run([RELEARN, *WORDS], env=environment(home, prefect_page), check=True, text=True,
                          capture_output=True)  # fmt: skip
    return weights(home, said_run(home, done.stdout))


def environment(home: Home, prefect_page: str) -> dict[str, str]:
    return {**os.environ, "RELEARN_HOME": str(home.root), "PREFECT_API_URL": f"{prefect_page}/api"}


def said_run(home: Home, output: str) -> str:
    """The id of the run whose beginning was printed."""
    found = re.search(r"Run ([0-9a-f]{8}), stopped in epoch", output)
    assert found, output
    client = connect(home)
    (run,) = [run for run in runs(home) if run.info.run_id.startswith(found[1])]
    return str(client.get_run(run.info.run_id).info.run_id)


def runs(home: Home):
    client = connect(home)
    experiment = client.get_experiment_by_name("digits")
    return client.search_runs([experiment.experiment_id], "tags.`relearn.job_type` = 'train'")


def weights(home: Home, run_id: str) -> dict[str, torch.Tensor]:
    folder = home.root / "fetched" / run_id
    registry.download_classifier(connect(home), run_id, folder)
    return dict(Classifier.load(folder).network.state_dict())


def assert_complete(home: Home, run_id: str, expected: dict[str, torch.Tensor]) -> None:
    """Same weights, every epoch once, finished, and nothing left behind."""
    client = connect(home)
    for key in ("val_loss", "train_accuracy"):
        assert list(range(1, EPOCHS + 1)) == [m.step for m in client.get_metric_history(run_id, key)]
    assert "FINISHED" == client.get_run(run_id).info.status
    got = weights(home, run_id)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    assert 1 == len(client.get_metric_history(run_id, "test_accuracy"))
    assert [] == list(home.checkpoints.glob("*"))
    assert [] == list(home.root.rglob("*.tmp"))


def when_saved(home: Home, epoch: int, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as a checkpoint of this epoch, or of a later one, is there."""

    def reached() -> bool:
        return any(int(file.name[:5]) >= epoch for file in home.checkpoints.glob("*/*-*.safetensors"))

    def watch() -> None:
        deadline = time.monotonic() + 60
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        act()

    watcher = threading.Thread(target=watch)
    watcher.start()
    return watcher


def interrupt(home: Home, capsys: Capture) -> str:
    """Begin a training and press Ctrl-C after three epochs; returns the id of its run."""
    watcher = when_saved(home, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert 130 == run_command_line(WORDS)
    watcher.join()
    (run_folder,) = home.checkpoints.iterdir()
    advice = f"relearn train --resume {run_folder.name[:8]} goes on"
    assert f"error[stopped]: ended by Ctrl-C; {advice}\n" == capsys.readouterr().err
    assert "KILLED" == connect(home).get_run(run_folder.name).info.status
    return run_folder.name


def fails(arguments: list[str], exit_code: int, capsys: Capture) -> list[str]:
    capsys.readouterr()
    assert exit_code == run_command_line(arguments)
    return capsys.readouterr().err.splitlines()


def test_after_ctrl_c_a_training_goes_on_in_its_run(
    copied: Home, uninterrupted: dict[str, torch.Tensor], capsys: Capture
) -> None:
    """To the same weights, in the same run, each epoch once; what is finished is not gone on with.

    Feedback that was accepted meanwhile is for the next training.
    """
    run_id = interrupt(copied, capsys)
    ones = np.full((5, 1, 28, 28), 255, np.uint8) * np.arange(5, dtype=np.uint8)[:, None, None, None]
    told = [
        LabelCorrection.from_feedback(image, "1", "told", 0, reported_at=datetime.now(UTC)) for image in ones
    ]
    assert 5 == len(DecisionLog(copied, "digits").record("accept", told))
    assert len(collect_extra_images(copied, "digits").images)
    assert 0 == run_command_line(["train", "--resume"])
    assert_complete(copied, run_id, uninterrupted)
    (line,) = fails(["train", "--resume", run_id[:8]], 2, capsys)
    assert f"error[not_found]: run {run_id[:8]} has no unfinished training in {copied.checkpoints}" == line
    (line,) = fails(["train", "--resume"], 2, capsys)
    assert f"error[not_found]: no unfinished training in {copied.checkpoints}" == line


def test_another_config_is_refused_and_nothing_is_lost(copied: Home, capsys: Capture) -> None:
    """Each setting that differs, with both values; the same one given again is no difference."""
    run_id = interrupt(copied, capsys)
    before = sorted(path.name for path in (copied.checkpoints / run_id).iterdir())
    assert [
        "error[config]: hidden_sizes: got (7,), the checkpoint has (512,)",
        f"error[config]: epochs: got 5, the checkpoint has {EPOCHS}",
    ] == fails(
        ["train", "--resume", run_id, "--hidden-sizes", "7", "--epochs", "5", "--seed", "0"], 2, capsys
    )
    assert before == sorted(path.name for path in (copied.checkpoints / run_id).iterdir())
    assert "KILLED" == connect(copied).get_run(run_id).info.status


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    copied: Home, uninterrupted: dict[str, torch.Tensor], capsys: Capture
) -> None:
    """The weights come out the same; where both are damaged it is refused."""
    run_id = interrupt(copied, capsys)
    for damaged in sorted((copied.checkpoints / run_id).glob("*.safetensors"))[1:]:
        damaged.write_bytes(damaged.read_bytes()[:-1])
    assert 0 == run_command_line(["train", "--resume", run_id])
    assert "is not what was written: its SHA-256" in " ".join(capsys.readouterr().out.split())
    assert_complete(copied, run_id, uninterrupted)

    run_id = interrupt(copied, capsys)
    for damaged in (copied.checkpoints / run_id).glob("*.safetensors"):
        damaged.write_bytes(damaged.read_bytes()[:-1])
    (line,) = fails(["train", "--resume", run_id], 4, capsys)
    assert line.startswith(
        f"error[corrupt_data]: no checkpoint in {copied.checkpoints / run_id} can be used: "
    )


def test_a_training_that_runs_is_not_gone_on_with(copied: Home, prefect_page: str, capsys: Capture) -> None:
    """The second one is told, and the first one is not disturbed."""
    with subprocess.Popen([RELEARN, *WORDS[:-1], "9999"], env=environment(copied, prefect_page)) as first:
        when_saved(copied, 1, lambda: None).join()
        (run_folder,) = copied.checkpoints.iterdir()
        (line,) = fails(["train", "--resume"], 3, capsys)
        assert f"error[infrastructure]: the training of {run_folder} goes on in another process" == line
        assert "RUNNING" == connect(copied).get_run(run_folder.name).info.status
        first.kill()


@pytest.mark.parametrize(
    "place",
    [
        "relearn.flows.tracking.registry.mlflow.finalize_logged_model",
        "relearn.flows.tracking.registry.log_classifier",
        "relearn.flows.train.remove_atomically",
    ],
)
def test_what_was_told_before_the_end_is_told_once(
    place: str,
    copied: Home,
    uninterrupted: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """Cut off after the last epoch: one classifier, each test figure once, one run, FINISHED."""
    known = {run.info.run_id for run in runs(copied)}
    *module, name = place.split(".")
    owner = pkgutil.resolve_name(".".join(module))
    whole = getattr(owner, name)

    def cut(*arguments: object, **named: object) -> None:
        if name == "log_classifier":
            whole(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, cut)
        assert 130 == run_command_line(WORDS)
    assert 0 == run_command_line(["train", "--resume"])
    (run_id,) = {run.info.run_id for run in runs(copied)} - known
    client = connect(copied)
    experiment = client.get_run(run_id).info.experiment_id
    assert 1 == len(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))
    assert 1 == len(client.get_run(run_id).outputs.model_outputs)
    assert_complete(copied, run_id, uninterrupted)


def test_a_beginning_that_several_have_is_refused(copied: Home, capsys: Capture) -> None:
    """Both are named; a longer one would do."""
    for ending in ("0", "1"):
        (copied.checkpoints / f"abcdef{ending}").mkdir(parents=True)
    (line,) = fails(["train", "--resume", "abcd"], 2, capsys)
    assert line.endswith("--resume: got 'abcd', which begins abcdef0, abcdef1")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once_and_costs_nothing(
    copied: Home, uninterrupted: dict[str, torch.Tensor], prefect_page: str
) -> None:
    """Within seconds; the training goes on from what was kept before."""
    # A background job of a shell ignores Ctrl-C, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([RELEARN, *WORDS], env=environment(copied, prefect_page)) as training:
        signal.signal(signal.SIGINT, before)
        when_saved(copied, 3, lambda: training.send_signal(signal.SIGINT)).join()
        time.sleep(0.02)
        training.send_signal(signal.SIGINT)
        assert 130 == training.wait(20)
    (run_folder,) = copied.checkpoints.iterdir()
    assert 0 == run_command_line(["train", "--resume"])
    assert_complete(copied, run_folder.name, uninterrupted)


@pytest.fixture
def small_files() -> Iterator[Callable[[], None]]:
    """Lets no file of this process grow; undone at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_flow_that_is_tried_again_goes_on(
    copied: Home, uninterrupted: dict[str, torch.Tensor], small_files: Callable[[], None]
) -> None:
    """What one try could not write does not cost the epochs before, nor make a second run."""
    config = TrainConfig.from_preset("default", dataset="digits", threads=1, patience=99, epochs=EPOCHS)
    known, tries = {run.info.run_id for run in runs(copied)}, 0

    @flow(retries=1)
    def stubborn() -> TrainResult:
        nonlocal tries
        tries += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return train_and_evaluate(config, load_data(config))

    watcher = when_saved(copied, 3, small_files)
    trained = stubborn()
    watcher.join()
    assert 2 == tries
    assert {trained.run_id} == {run.info.run_id for run in runs(copied)} - known
    assert_complete(copied, trained.run_id, uninterrupted)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Nobody else writes to the database."""
    with closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as holder:
        holder.execute("begin exclusive")
        yield
        holder.execute("rollback")


def test_a_store_that_is_busy_does_not_hold_up_a_training(
    copied: Home, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """The epochs pass while the store is locked; when it is free again, each of them arrives, once."""
    passed = []

    def hold() -> None:
        with locked(copied.root / "mlflow.db"):
            when_saved(copied, EPOCHS, lambda: passed.append(EPOCHS)).join()
            time.sleep(1)

    watcher = when_saved(copied, 2, hold)
    known = {run.info.run_id for run in runs(copied)}
    assert 0 == run_command_line(WORDS)
    watcher.join()
    assert [EPOCHS] == passed
    (run_id,) = {run.info.run_id for run in runs(copied)} - known
    assert_complete(copied, run_id, uninterrupted)


def life(home: Home, prefect_page: str, resume: str | None, seconds: float) -> int:
    """Start or go on, and be killed after `seconds` at the latest; returns the exit code."""
    words = WORDS if resume is None else ["train", "--resume", resume]
    with subprocess.Popen([RELEARN, *words], env=environment(home, prefect_page)) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code


def killed_until_done(home: Home, prefect_page: str, draw: random.Random) -> str | None:
    """One training, killed at random again and again; its run's id, or None when it was killed too early."""
    known = {run.info.run_id for run in runs(home)}
    code = life(home, prefect_page, None, draw.uniform(2, 12))
    if not list(home.checkpoints.glob("*/*.safetensors")) and code != 0:
        done = {run.info.run_id for run in runs(home) if RESULT_TAG in run.data.tags} - known
        return done.pop() if done else None
    (run_id,) = {run.info.run_id for run in runs(home)} - known
    for lives in range(20):
        if code == 0 or not list(home.checkpoints.glob("*/*.safetensors")):  # killed when all was done
            return run_id
        code = life(home, prefect_page, run_id, draw.uniform(4, 14 + 2 * lives))  # a slow machine ends it too
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_kills_at_random_change_nothing(
    seed: int, copied: Home, uninterrupted: dict[str, torch.Tensor], prefect_page: str
) -> None:
    """However often and wherever a training is killed, it ends as if nothing had been."""
    run_id = killed_until_done(copied, prefect_page, random.Random(seed))
    if run_id is None:
        assert [] == list(copied.checkpoints.glob("*/*.safetensors"))
        return
    Experiment.open_or_create(copied, "digits")  # what starts next closes what was lost
    assert_complete(copied, run_id, uninterrupted)
