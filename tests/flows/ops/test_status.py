"""`relearn status` fits on one screen, is fast, and reports a server that does not answer in its line."""

import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.overview import describe_home, find_next_command
from relearn.flows.ops.status import status
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.flows.tracking.local_runs import find_local_store
from relearn.model.home import Home
from relearn.model.ports import find_free_port
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.predictions.entries import Feedback
from relearn.serving.predictions.prediction_log import PredictionLog
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.conftest import Ran
from tests.flows.zoo import SHAPE, Zoo


@pytest.fixture(autouse=True)
def _no_other_prefect_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Query no Prefect server that runs on this machine by chance."""
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(find_free_port()))


def read_lines(home: Home) -> dict[str, str]:
    """Return the text of each line by its label."""
    return {line.label: line.text for line in status(home)}


def test_empty_home_suggests_the_first_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is created in it."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == run_command_line(["status"])

    output = capsys.readouterr().out
    assert f"{tmp_path / 'home'} is not there yet" in output
    assert "nothing is released yet: run relearn run" in output
    assert [] == list(tmp_path.iterdir())


def test_status_after_the_first_run(ran: Ran) -> None:
    """It has the version, the gate decision, the data and sizes; nothing is scheduled, no server runs."""
    lines = read_lines(ran.home)

    assert re.match(r"version 1, (mlp|cnn), \d\d\.\d% of 292 test images, since ", lines["live"])
    assert re.match(r"digits #1 · (mlp|cnn) · .* · released, ", lines["retrained"])
    assert lines["data"].startswith("digits, 10 classes, fingerprint ")
    assert lines["data"].endswith(", 1,797 images")
    assert "artifacts " in lines["disk"]
    assert "nothing is scheduled: no Prefect server is up" == lines["next"]


def test_local_runs_are_read_as_mlflow_reads_them(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line on the last retraining is the same where the store is not a plain SQLite file."""
    expected = read_lines(ran.home)["retrained"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite+pysqlite:///{ran.home.root}/mlflow.db")
    assert find_local_store(ran.home) is None
    assert expected.split(" (")[0] == read_lines(ran.home)["retrained"].split(" (")[0]


def test_overview_has_training_release_and_next_command(ran: Ran) -> None:
    """After a run the next command starts all services; an interrupted training comes first."""
    trained, released, running = describe_home(ran.home)
    assert re.match(r"digits #1 · (mlp|cnn) · .* · released, .* ago", trained.text)
    assert re.match(r"digits: version 1, (mlp|cnn), \d\d\.\d% of 292 test images, .* ago", released.text)
    assert running.label == "Running"
    assert find_next_command(ran.home)[0] in {"up", "status"}  # a test beside this one may run a server


def test_overview_of_a_damaged_store_says_so(tmp_path: Path) -> None:
    """The other lines are there, and the reason."""
    (tmp_path / "mlflow.db").write_text("no database, but a text that is longer than its header")
    checkpoint = tmp_path / "checkpoints" / "run" / "00001.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    trained, released, running = describe_home(Home(tmp_path, tmp_path))
    assert "unknown, see relearn doctor: file is not a database" == trained.text
    assert ("nothing", "nothing") == (released.text, running.text)
    assert ("train", "--resume") == find_next_command(Home(tmp_path, tmp_path))


def test_newer_prepared_data_is_reported(ran: Ran, tmp_path: Path) -> None:
    """The line has the data that was prepared last if the live version was trained on other data."""
    home = Home(tmp_path, tmp_path)
    shutil.copytree(ran.home.root / "releases", tmp_path / "releases")
    shutil.copytree(ran.home.dataset_cache, home.dataset_cache)
    (manifest,) = home.dataset_cache.glob("*/manifest.json")
    changed = json.loads(manifest.read_text()) | {"fingerprint": "f" * 64}
    newer = home.dataset_cache / "digits-newer" / "manifest.json"
    newer.parent.mkdir()
    newer.write_text(json.dumps(changed))
    os.utime(newer, (time.time() + 60, time.time() + 60))

    assert read_lines(home)["data"].endswith("; prepared since: 1,797 images, ffffffffffff")


def test_predictions_and_feedback_are_counted(zoo: Zoo) -> None:
    """The files are written by the API's own log."""
    live = load_release(zoo.releases, zoo.promote("1").live)
    images = np.zeros((5, *SHAPE), np.uint8)
    log = PredictionLog(zoo.home.prediction_log_dir("zoo"), ServeConfig(), 1, lambda dropped: None)
    for request in ("a", "b"):
        log.log(request, live, images, live.classifier.predict(images))
    log.log_feedback(Feedback("a", 0, time.time(), label="bee"))
    log.close()

    assert "10 logged, 1 with feedback" == read_lines(zoo.home)["predictions"]


def test_hanging_or_broken_part_is_reported_in_its_line(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other lines are not affected."""
    zoo.promote("1")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        folder = zoo.home.root / "servers" / "x"
        RunningServer.from_process(os.getpid(), url, 1, "zoo:2", "zoo", folder).write(folder)
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        lines = read_lines(zoo.home)

    assert lines["live"].startswith("version 2, ")
    assert lines["live"].endswith("; a rollback makes 1 live again")
    assert f"zoo at {url}, which does not answer" in lines["servers"]
    assert "takes connections, and does not answer" in lines["next"]
    assert lines["retrained"].startswith("unknown, see relearn doctor: MLflow at ")
    zoo.releases.ledger.entry_path(2).write_text("{}")
    assert "000002.json: " in read_lines(zoo.home)["live"]
