"""Releases that are killed, run concurrently or lose their database leave a consistent state."""

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
from relearn.model.evaluation.metrics import evaluate
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.preparation.prepared import PreparedDataset, prepare_dataset
from relearn.model.training.fit import fit
from relearn.serving.config import ServeConfig
from relearn.serving.deployment.server import Server, start_server
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import load_release
from tests.flows.postgres import Postgres

RELEARN = str(Path(sys.executable).with_name("relearn"))
# Promotes every candidate that is not significantly worse.
PERMISSIVE = PromotionConfig(promotion_rule="non_inferior", non_inferiority_margin=1)
PERMISSIVE_FLAGS = ("--promotion-rule", "non_inferior", "--non-inferiority-margin", "1")


class Workspace:
    """Home in which candidates for the digits are trained, and released by separate processes."""

    def __init__(self, home: Home, environment: dict[str, str]) -> None:
        self.home, self.environment = home, environment
        self.prepared: PreparedDataset = prepare_dataset(TrainConfig(dataset="digits"), home)
        self.releases = ReleaseStore(home.releases_dir("digits"))

    def train_candidate(self, epochs: int = 1, seed: int = 0) -> str:
        """Train a classifier for `epochs`; return the id of its run."""
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

    def start_release(self, run_id: str, *flags: str) -> subprocess.Popen[str]:
        """Start `relearn release RUN`."""
        return subprocess.Popen(
            [RELEARN, "release", run_id, *flags],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def release(self, run_id: str, *flags: str) -> None:
        """Run `relearn release RUN`."""
        process = self.start_release(run_id, *flags)
        _, errors = process.communicate(timeout=120)
        assert 0 == process.returncode, errors

    def assert_consistent(self) -> str | None:
        """Assert that ledger, folder, Bento and aliases agree; return the live version."""
        state, client = ReleaseState.from_store(self.releases), connect(self.home)
        assert state.live == self.releases.read_live()
        aliases = client.get_registered_model("digits").aliases
        version_by_alias = {alias: str(version) for alias, version in aliases.items()}
        assert version_by_alias.get("champion") == (state.live and state.live.version)
        assert version_by_alias.get("previous") == state.previous_version
        run_ids = [version.run_id for version in client.search_model_versions("name = 'digits'")]
        assert len(set(run_ids)) == len(run_ids), "a run has two versions"
        live_version = None
        for entry in self.releases.ledger.read_entries():
            assert entry.previous_live == live_version, "the history is not linear"
            live_version = entry.live and entry.live.version
        if state.live:
            assert load_release(self.releases, state.live).version == live_version
            assert (self.home.bentoml / "bentos" / "digits" / str(live_version) / "bento.yaml").is_file()
        return live_version


@pytest.fixture
def workspace(copied: Home, on_server: str, clean: dict[str, str], tmp_path: Path) -> Workspace:
    """The home of the first `relearn run`, without its release; flows report to a real server."""
    connect(copied).delete_registered_model("digits")
    variables = {"RELEARN_HOME": str(copied.root), "PREFECT_API_URL": f"{on_server}/api"}
    return Workspace(copied, clean | variables)


@contextmanager
def serving(workspace: Workspace) -> Iterator[Server]:
    """Start a real server that follows the live version."""
    release = workspace.releases.read_live()
    assert release is not None
    server = start_server(release.bento, ServeConfig(port=0), workspace.home, model_name="digits")
    try:
        server.wait_until_ok("/readyz")
        yield server
    finally:
        server.stop()


def is_served_without_errors(server: Server, version: str | None) -> bool:
    """Return whether the server predicts with `version` within 5 s, with no reply other than 200."""
    image = np.zeros((1, 28, 28), np.uint8).tolist()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        response = httpx.post(f"{server.url}/predict", json={"images": image}, timeout=10)
        assert response.status_code == 200, response.text
        if response.json()["version"] == version:
            return True
        time.sleep(0.05)
    return False


def kill_releases_at_random(workspace: Workspace, kills: int, seed: int) -> list[str]:
    """Kill releases at random times, repair and repeat each; return the live version after each."""
    generator, live_versions = random.Random(seed), []
    start_time = time.monotonic()
    workspace.release(workspace.train_candidate(), *PERMISSIVE_FLAGS)
    duration_seconds = time.monotonic() - start_time
    with serving(workspace) as server:
        for _ in range(kills):
            run_id = workspace.train_candidate()
            process = workspace.start_release(run_id, *PERMISSIVE_FLAGS)
            time.sleep(generator.uniform(0, duration_seconds))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            sync_with_ledger(workspace.home, "digits")
            assert is_served_without_errors(server, workspace.assert_consistent())
            release(run_id, PERMISSIVE)
            live_versions.append(str(workspace.assert_consistent()))
            assert is_served_without_errors(server, live_versions[-1])
            last = workspace.releases.ledger.read_last()
            assert last is not None
            assert ("promote", run_id) == (last.action, last.run_id)
    return live_versions


@pytest.mark.slow
def test_killed_release_leaves_a_consistent_state(workspace: Workspace) -> None:
    """Repeated, it ends as if it had not been killed."""
    assert ["2"] == kill_releases_at_random(workspace, kills=1, seed=0)


@pytest.mark.series
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, 21))
def test_releases_killed_at_random_leave_a_consistent_state(workspace: Workspace, seed: int) -> None:
    """100 kills in all, at random times over the whole duration of the process."""
    assert ["2", "3", "4", "5", "6"] == kill_releases_at_random(workspace, kills=5, seed=seed)


def release_concurrently(workspace: Workspace, count: int) -> list[str]:
    """Release `count` candidates concurrently; return their run ids."""
    run_ids = [workspace.train_candidate(epochs=1 + seed, seed=seed) for seed in range(count)]
    processes = [workspace.start_release(run_id) for run_id in run_ids]
    for process in processes:
        output, errors = process.communicate(timeout=280)
        assert process.returncode in (0, 4), errors
        assert (process.returncode == 4) == ("REJECT" in output), output
    return run_ids


def assert_linear_history(workspace: Workspace, run_ids: list[str]) -> None:
    """Assert that every run has one decision, and every promotion its own version."""
    assert workspace.assert_consistent() is not None
    entries = workspace.releases.ledger.read_entries()
    assert sorted(run_ids) == sorted(entry.run_id for entry in entries)
    promoted = [entry.live for entry in entries if entry.action == "promote"]
    assert len({live.version for live in promoted if live}) == len(promoted)


@pytest.mark.slow
def test_eight_concurrent_releases_have_a_linear_history(workspace: Workspace) -> None:
    """With SQLite behind MLflow no update is lost, and a run has one version."""
    assert_linear_history(workspace, release_concurrently(workspace, 8))


@pytest.fixture
def on_postgres(workspace: Workspace, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same home with runs and versions in PostgreSQL."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri)
    return Workspace(workspace.home, workspace.environment | {"MLFLOW_TRACKING_URI": postgres.uri})


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_eight_concurrent_releases_on_postgres_have_a_linear_history(on_postgres: Workspace) -> None:
    """The same holds with PostgreSQL behind MLflow."""
    assert_linear_history(on_postgres, release_concurrently(on_postgres, 8))


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_stopped_database_is_reported_in_one_line(on_postgres: Workspace, postgres: Postgres) -> None:
    """Within a minute the release prints one line with host and port, exit code 3."""
    run_id = on_postgres.train_candidate()
    postgres.stop("fast")
    process = on_postgres.start_release(run_id)
    _, errors = process.communicate(timeout=60)

    assert (3, 1) == (process.returncode, len(errors.splitlines())), errors
    assert f"127.0.0.1:{postgres.port}" in errors
    assert [] == on_postgres.releases.ledger.read_entries()


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.series) for seed in range(1, 4))])
def test_release_can_be_repeated_after_a_database_crash(
    on_postgres: Workspace, postgres: Postgres, seed: int
) -> None:
    """The release prints at most one line; repeated, it registers one version."""
    run_id = on_postgres.train_candidate()
    process = on_postgres.start_release(run_id)
    time.sleep(4 + random.Random(seed).uniform(0, 6))
    postgres.stop("immediate")
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 3), errors
    assert len(errors.splitlines()) <= 1, errors

    postgres.start()
    on_postgres.release(run_id)
    assert "1" == on_postgres.assert_consistent()
    assert 1 == len(connect(on_postgres.home).search_model_versions("name = 'digits'"))


@pytest.mark.slow
@pytest.mark.needs("initdb", "pg_ctl")
def test_hanging_database_is_reported_in_one_line(on_postgres: Workspace, postgres: Postgres) -> None:
    """The release prints one line within 90 s; once the database answers again, it can be repeated."""
    run_id = on_postgres.train_candidate()
    postgres.signal(signal.SIGSTOP)
    try:
        process = on_postgres.start_release(run_id)
        _, errors = process.communicate(timeout=90)
    finally:
        postgres.signal(signal.SIGCONT)
    assert (3, 1) == (process.returncode, len(errors.splitlines())), errors
    assert f"127.0.0.1:{postgres.port}" in errors

    on_postgres.release(run_id)
    assert "1" == on_postgres.assert_consistent()
