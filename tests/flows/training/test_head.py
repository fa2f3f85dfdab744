"""A pretrained network is a run like any other, and a kill -9 costs it no feature twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from relearn.flows.cli.app import run_command_line
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.training.features import FEATURES_FILE
from tests.flows.conftest import report_to

RELEARN = str(Path(sys.executable).parent / "relearn")
IMAGES = 160  # of which about 110 are for training and validation: two seconds of one core

pytestmark = pytest.mark.usefixtures("on_server")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small noisy images of two classes, stripes that are level and stripes that are upright."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    generator, waves = np.random.default_rng(0), np.sin(np.linspace(0, 20, 40))
    for label, stripes in (("level", waves[:, None, None]), ("upright", waves[None, :, None])):
        (folder / label).mkdir(parents=True)
        for index in range(IMAGES // 2):
            pixels = 120 + 60 * stripes + generator.normal(0, 30, (40, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / label / f"{index}.png")
    return folder


def command(photos: Path) -> list[str]:
    return ["train", "--dataset", f"folder:{photos}", "--network", "pretrained", "--threads", "1"]


@pytest.fixture(scope="session")
def uninterrupted(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, prefect_page: str
) -> tuple[Home, str]:
    """Home and run id of the training without an interruption."""
    root = tmp_path_factory.mktemp("uninterrupted") / "home"
    home = Home(root, root / "data")
    with report_to(prefect_page), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEARN_HOME", str(home.root))
        assert 0 == run_command_line(command(photos))
    (run_id,) = find_run_ids(home)
    return home, run_id


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home", tmp_path / "home" / "data")


def find_run_ids(home: Home) -> set[str]:
    client = connect(home)
    experiment = client.get_experiment_by_name("photos")
    return {run.info.run_id for run in client.search_runs([experiment.experiment_id])}


def load_classifier(home: Home, run_id: str) -> Classifier:
    folder = registry.download_classifier(connect(home), run_id, home.root / "fetched" / run_id)
    return Classifier.load(folder)


def assert_same_head(home: Home, run_id: str, uninterrupted: tuple[Home, str]) -> None:
    """Assert the same weights and temperature, a finished run with each metric once, and no checkpoint."""
    expected, classifier = load_classifier(*uninterrupted), load_classifier(home, run_id)
    weights = classifier.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in expected.network.state_dict().items())
    assert expected.card.temperature == classifier.card.temperature
    client = connect(home)
    assert "FINISHED" == client.get_run(run_id).info.status
    for key in ("test/accuracy", "best/val_loss", "best/inverse_penalty", "time/training_seconds"):
        assert 1 == len(client.get_metric_history(run_id, key))
    assert [] == list(home.checkpoints.glob("*"))


def count_features(home: Home) -> int:
    file = home.backbones / FEATURES_FILE
    if not file.exists():
        return 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as database:
        try:
            return int(database.execute("SELECT count(*) FROM features").fetchone()[0])
        except sqlite3.OperationalError:  # the table is created next
            return 0


def start(home: Home, prefect_page: str, arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "RELEARN_HOME": str(home.root), "PREFECT_API_URL": f"{prefect_page}/api"}
    return subprocess.Popen([RELEARN, *arguments], env=environment, text=True)


def test_run_has_the_figures_of_a_head(uninterrupted: tuple[Home, str], photos: Path) -> None:
    """It has a figure of its penalties instead of curves over epochs, and predicts its classes."""
    home, run_id = uninterrupted
    client = connect(home)
    files = {item.path for folder in ("", "head", "test") for item in client.list_artifacts(run_id, folder)}
    assert {"head/penalties.png", "head/penalties.csv", "test/confusion.png", "test/per_class.csv"} <= files
    assert not {"curves.png", "history.csv", "gradients"} & files
    run = client.get_run(run_id)
    assert "pretrained" == run.data.params["network"]
    assert run.data.metrics["test/accuracy"] > 0.9
    classifier = load_classifier(home, run_id)
    assert run.data.metrics["best/temperature"] == classifier.card.temperature
    image = np.asarray(Image.open(photos / "level" / "0.png")).transpose(2, 0, 1)
    assert ["level"] == classifier.to_labels(classifier.predict(image[None]))


def test_same_photos_need_no_backbone_again(
    uninterrupted: tuple[Home, str], home: Home, photos: Path, tmp_path: Path
) -> None:
    """A second training computes the features of new photos alone."""
    source, _ = uninterrupted
    home.backbones.mkdir(parents=True)
    for file in source.backbones.iterdir():
        (home.backbones / file.name).write_bytes(file.read_bytes())
    before = count_features(home)
    assert 0 == run_command_line([*command(photos), "--seed", "1"])
    assert before == count_features(home)


@pytest.mark.slow
def test_training_is_resumed_after_kill_9(
    uninterrupted: tuple[Home, str], home: Home, photos: Path, prefect_page: str
) -> None:
    """Killed within the features, it continues with the images that are left, to the same head."""
    total = count_features(uninterrupted[0])
    with start(home, prefect_page, command(photos)) as process:
        deadline = time.monotonic() + 120
        while not 0 < (done := count_features(home)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert 0 < done < total
    (run_folder,) = home.checkpoints.iterdir()
    assert 0 == run_command_line(["train", "--resume"])
    assert_same_head(home, run_folder.name, uninterrupted)
    assert {run_folder.name} == find_run_ids(home)
    assert total == count_features(home)


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.series) for seed in range(20)])
def test_random_kills_do_not_change_the_head(
    seed: int, uninterrupted: tuple[Home, str], home: Home, photos: Path, prefect_page: str
) -> None:
    """Killed anywhere, again and again, the training ends with the same head in its run.

    A training that is killed before its first checkpoint starts anew, in another run.
    """
    generator, arguments, runs = random.Random(seed), command(photos), set[str]()
    for attempt in range(20):
        with start(home, prefect_page, arguments) as process:
            try:
                process.wait(generator.uniform(4, 14 + 2 * attempt))
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        if runs := {file.parent.name for file in home.checkpoints.glob("*/*.safetensors")} or runs:
            arguments = ["train", "--resume"]
        if process.returncode == 0 or (runs and not list(home.checkpoints.glob("*/*.safetensors"))):
            break
    Experiment.open_or_create(home, "photos")  # the next start marks lost runs as killed
    (run_id,) = runs or find_run_ids(home)
    assert_same_head(home, run_id, uninterrupted)


@pytest.mark.slow
def test_version_is_reproduced_to_the_last_bit(
    uninterrupted: tuple[Home, str], home: Home, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`relearn run` releases a head, and `relearn evaluate --reproduce` fits the same one again."""
    home.backbones.mkdir(parents=True)
    for file in uninterrupted[0].backbones.iterdir():
        (home.backbones / file.name).write_bytes(file.read_bytes())
    assert 0 == run_command_line(["run", *command(photos)[1:]])
    assert "version 1 is live" in " ".join(capsys.readouterr().out.split())
    assert 0 == run_command_line(["evaluate", "photos@1", "--reproduce"])
    assert "reproduced bit for bit" in " ".join(capsys.readouterr().out.split())
