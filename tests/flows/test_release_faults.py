"""Releases that are killed, that come at once, and whose database goes away: one truth, no matter what."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from relearn.flows.config import PromotionConfig
from relearn.flows.release import release
from relearn.flows.releases.release_state import ReleaseState, sync_with_ledger
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.evaluation.metrics import evaluate
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.postgres import Postgres

RELEARN = str(Path(sys.executable).with_name("relearn"))
ANYTHING = PromotionConfig(promotion_rule="non_inferior", accuracy_margin=1)  # all that is not clearly worse
AS_FLAGS = ("--promotion-rule", "non_inferior", "--accuracy-margin", "1")


class Workshop:
    """A home in which candidates for the digits are made and released, by processes of their own."""

    def __init__(self, home: Home, environment: dict[str, str]) -> None:
        self.home, self.environment = home, environment
        self.prepared: PreparedDataset = prepare_dataset(TrainConfig(dataset="digits"), home)
        self.releases = ReleaseStore(home.releases_dir("digits"))

    def candidate(self, epochs: int = 1, seed: int = 0) -> str:
        """The id of a run with a classifier that has learned for so many epochs."""
        config = TrainConfig(dataset="digits", hidden_sizes=(32,), epochs=epochs, seed=seed)
        torch.manual_seed(seed)
        network = build_network(config, self.prepared.shape, 10)
        fit(config, network, self.prepared.splits, 10)
        classifier = Classifier(network, ModelCard.from_network(config, self.prepared, network))
        metrics = evaluate(classifier, self.prepared.splits.test).metrics
        with Experiment.open_or_create(self.home, "digits").start_run(
            "candidate", {"relearn.job_type": "train"}
        ) as run:
            card = classifier.card.model_copy(update={"metrics": metrics})
            registry.log_classifier(
                run, Classifier(classifier.network, card), self.prepared.splits.train_val_hashes
            )
        return run.id

    def begin(self, run_id: str, *flags: str) -> subprocess.Popen[str]:
        """`relearn release RUN`, begun."""
        return subprocess.Popen(
            [RELEARN, "release", run_id, *flags],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def done(self, run_id: str, *flags: str) -> None:
        """`relearn release RUN`, from the beginning to the end."""
        process = self.begin(run_id, *flags)
        _, errors = process.communicate(timeout=120)
        assert 0 == process.returncode, errors

    def agrees(self) -> str | None:
        """Ledger, pointer, folder, Bento and aliases mean the same; returns the version that is live."""
        truth, client = ReleaseState.from_store(self.releases), connect(self.home)
        assert truth.live == self.releases.read_current()
        aliases = client.get_registered_model("digits").aliases
        meant = {alias: str(version) for alias, version in aliases.items()}
        assert meant.get("champion") == (truth.live and truth.live.version)
        assert meant.get("previous") == truth.previous_version
        runs = [version.run_id for version in client.search_model_versions("name = 'digits'")]
        assert len(set(runs)) == len(runs), "a run has two versions"
        live = None
        for entry in self.releases.ledger.read_entries():
            assert entry.previous_live == live, "the history is not linear"
            live = entry.live and entry.live.version
        if truth.live:
            assert load_release(self.releases, truth.live).version == live
            assert (self.home.bentoml / "bentos" / "digits" / str(live) / "bento.yaml").is_file()
        return live


@pytest.fixture
def workshop(copied: Home, on_server: str, clean: dict[str, str], tmp_path: Path) -> Workshop:
    """In the state that the first `relearn run` left, without its release; flows report to a real server."""
    connect(copied).delete_registered_model("digits")
    variables = {"RELEARN_HOME": str(copied.root), "PREFECT_API_URL": f"{on_server}/api"}
    return Workshop(copied, clean | variables)


@contextmanager
def serving(workshop: Workshop) -> Iterator[Server]:
    """A real server that follows what is live."""
    live = workshop.releases.read_current()
    assert live is not None
    server = start_server(live.bento, ServeConfig(port=0), workshop.home, model_name="digits")
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


def answered(server: Server, version: str | None) -> bool:
    """Whether the server answers 200 all the time until, within 5 s, the answer is from `version`."""
    image = np.zeros((1, 28, 28), np.uint8).tolist()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        answer = httpx.post(f"{server.url}/predict", json={"images": image}, timeout=10)
        assert answer.status_code == 200, answer.text
        if answer.json()["version"] == version:
            return True
        time.sleep(0.05)
    return False


def killed_at_random(workshop: Workshop, kills: int, seed: int) -> list[str]:
    """Kill releases at random moments; after each the next start finds, and makes, everything agree."""
    draw, lives = random.Random(seed), []
    began = time.monotonic()
    workshop.done(workshop.candidate(), *AS_FLAGS)
    length = time.monotonic() - began
    with serving(workshop) as server:
        for _ in range(kills):
            run_id = workshop.candidate()
            process = workshop.begin(run_id, *AS_FLAGS)
            time.sleep(draw.uniform(0, length))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            sync_with_ledger(workshop.home, "digits")
            assert answered(server, workshop.agrees())
            release(run_id, ANYTHING)
            lives.append(str(workshop.agrees()))
            assert answered(server, lives[-1])
            last = workshop.releases.ledger.read_last()
            assert last is not None
            assert ("promote", run_id) == (last.action, last.run_id)
    return lives


def test_a_release_may_be_killed(workshop: Workshop) -> None:
    """Wherever it was: nothing is half live, and done again it ends as if it had not been killed."""
    assert ["2"] == killed_at_random(workshop, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_release_may_be_killed_anywhere(workshop: Workshop, seed: int) -> None:
    """A hundred in all, each at another moment of the whole life of the process."""
    assert ["2", "3", "4", "5", "6"] == killed_at_random(workshop, kills=5, seed=seed)


def together(workshop: Workshop, count: int) -> list[str]:
    """Release so many candidates at once; returns their runs."""
    runs = [workshop.candidate(epochs=1 + seed, seed=seed) for seed in range(count)]
    processes = [workshop.begin(run_id) for run_id in runs]
    for process in processes:
        _, errors = process.communicate(timeout=280)
        assert process.returncode in (0, 4), errors
        assert process.returncode == 0 or errors.startswith("error[rejected]"), errors
    return runs


def one_history(workshop: Workshop, runs: list[str]) -> None:
    """Every run has one decision, each made against what was live then; the best is not far from the top."""
    assert workshop.agrees() is not None
    entries = workshop.releases.ledger.read_entries()
    assert sorted(runs) == sorted(entry.run_id for entry in entries)
    promoted = [entry.live for entry in entries if entry.action == "promote"]
    assert len({live.version for live in promoted if live}) == len(promoted)


@pytest.mark.slow
def test_eight_promotions_at_once(workshop: Workshop) -> None:
    """One order, no lost update, one version a run; SQLite behind MLflow."""
    one_history(workshop, together(workshop, 8))


@pytest.fixture
def on_postgres(workshop: Workshop, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """The same workshop, its runs and versions in PostgreSQL."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri)
    return Workshop(workshop.home, workshop.environment | {"MLFLOW_TRACKING_URI": postgres.uri})


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_eight_promotions_at_once_on_postgres(on_postgres: Workshop) -> None:
    """The same with a real PostgreSQL behind MLflow."""
    one_history(on_postgres, together(on_postgres, 8))


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_a_database_that_is_away_is_one_line(on_postgres: Workshop, postgres: Postgres) -> None:
    """Stopped before the release begins: within a minute one line with host and port, exit code 3."""
    run_id = on_postgres.candidate()
    postgres.stop("fast")
    process = on_postgres.begin(run_id)
    _, errors = process.communicate(timeout=60)

    assert (3, 1) == (process.returncode, len(errors.splitlines())), errors
    assert f"127.0.0.1:{postgres.port}" in errors
    assert [] == on_postgres.releases.ledger.read_entries()


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
@pytest.mark.parametrize("seed", range(4))
def test_a_database_that_dies_in_a_release(on_postgres: Workshop, postgres: Postgres, seed: int) -> None:
    """Gone at a random moment, in mid-commit perhaps: one line or done; again, and there is one version."""
    run_id = on_postgres.candidate()
    process = on_postgres.begin(run_id)
    time.sleep(4 + random.Random(seed).uniform(0, 6))
    postgres.stop("immediate")
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 3), errors
    assert len(errors.splitlines()) <= 1, errors

    postgres.start()
    on_postgres.done(run_id)
    assert "1" == on_postgres.agrees()
    assert 1 == len(connect(on_postgres.home).search_model_versions("name = 'digits'"))


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_a_database_that_hangs_is_not_waited_for_long(on_postgres: Workshop, postgres: Postgres) -> None:
    """It takes connections and never answers: one line within a minute; awake again, the release is done."""
    run_id = on_postgres.candidate()
    postgres.signal(signal.SIGSTOP)
    try:
        process = on_postgres.begin(run_id)
        _, errors = process.communicate(timeout=90)
    finally:
        postgres.signal(signal.SIGCONT)
    assert (3, 1) == (process.returncode, len(errors.splitlines())), errors
    assert f"127.0.0.1:{postgres.port}" in errors

    on_postgres.done(run_id)
    assert "1" == on_postgres.agrees()
