"""Promises of the status: all on one screen, soon, and what does not answer is told in its own line."""

import json
import os
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.ops.status import status
from relearn.flows.releases.release_state import sync_with_ledger
from relearn.model.home import Home
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.discovery import RunningServer
from relearn.serving.predictions.prediction_log import Feedback, PredictionLog
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.conftest import Ran, free_port
from tests.flows.zoo import SHAPE, Zoo


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect server that runs here by chance is asked."""
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(free_port()))


def told(home: Home) -> dict[str, str]:
    """What is told, by its label."""
    return {line.label: line.text for line in status(home)}


def test_an_empty_home_says_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is made in it."""
    monkeypatch.setenv("RELEARN_HOME", str(tmp_path / "home"))
    assert 0 == run_command_line(["status"])

    said = capsys.readouterr().out
    assert f"{tmp_path / 'home'} is not there yet" in said
    assert "nothing is released yet: run relearn run" in said
    assert [] == list(tmp_path.iterdir())


def test_what_is_live_and_what_came_of_the_last_retraining(ran: Ran) -> None:
    """After a first run: version, verdict, data, sizes; nothing is scheduled, and no server runs."""
    lines = told(ran.home)

    assert lines["live"].startswith("version 1 since ")
    assert lines["retrained"].startswith("PROMOTE, ")
    assert lines["data"].startswith("digits, 10 classes, fingerprint ")
    assert lines["data"].endswith(", 1,797 images")
    assert "artifacts " in lines["disk"]
    assert "nothing is scheduled: no Prefect server is up" == lines["next"]


def test_data_that_has_changed_since_is_told(ran: Ran, tmp_path: Path) -> None:
    """What was prepared last, where it is not what the live version learned from."""
    home = Home(tmp_path, tmp_path)
    shutil.copytree(ran.home.root / "releases", tmp_path / "releases")
    shutil.copytree(ran.home.dataset_cache, home.dataset_cache)
    (known,) = home.dataset_cache.glob("*/manifest.json")
    changed = json.loads(known.read_text()) | {"fingerprint": "f" * 64}
    newer = home.dataset_cache / "digits-newer" / "manifest.json"
    newer.parent.mkdir()
    newer.write_text(json.dumps(changed))
    os.utime(newer, (time.time() + 60, time.time() + 60))

    assert told(home)["data"].endswith("; prepared since: 1,797 images, ffffffffffff")


def test_records_and_feedback_are_counted(zoo: Zoo) -> None:
    """By the files that the API's own writer makes."""
    live = load_release(zoo.releases, zoo.promote("1").live)
    images = np.zeros((5, *SHAPE), np.uint8)
    records = PredictionLog(zoo.home.prediction_log_dir("zoo"), ServeConfig(), 1, lambda lost: None)
    for request in ("a", "b"):
        records.log(request, live, images, live.classifier.predict(images))
    records.log_feedback(Feedback("a", 0, time.time(), "bee"))
    records.close()

    assert "10 predictions, 1 with feedback" == told(zoo.home)["records"]


def test_what_hangs_or_is_broken_is_told_in_its_line(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are as ever."""
    zoo.promote("1")
    zoo.promote("2")
    sync_with_ledger(zoo.home, "zoo")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        folder = zoo.home.root / "servers" / "x"
        RunningServer.from_process(os.getpid(), url, 1, "zoo:2", "zoo", folder).write(folder)
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        lines = told(zoo.home)

    assert lines["live"].startswith("version 2 since ")
    assert lines["live"].endswith("; a rollback brings 1 back")
    assert f"zoo at {url}, which does not answer" in lines["servers"]
    assert "takes connections, and does not answer" in lines["next"]
    assert lines["retrained"].startswith("cannot be told, see relearn doctor: MLflow at ")
    zoo.releases.ledger.path.write_text("{}\n")
    assert "ledger.jsonl, line 1" in told(zoo.home)["live"]
