"""Classifiers in MLflow: plain files with a signature, one version a run."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import read_training_hashes
from tests.flows.conftest import Ran
from tests.flows.zoo import animals

SHAPE = (1, 12, 12)
SEEN = np.array([7, 3, 2**63 + 5], np.uint64)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    root = tmp_path_factory.mktemp("registered")
    return Experiment.open_or_create(Home(root, root), "zoo")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    classifier = animals(TrainConfig(model_name="zoo", network="cnn"))
    return Classifier(classifier.network, classifier.card.model_copy(update={"metrics": {"accuracy": 0.5}}))


@pytest.fixture(scope="module")
def run_id(experiment: Experiment, classifier: Classifier) -> str:
    """A run that has logged its classifier."""
    with experiment.start_run("cnn", {}) as run:
        registry.log_classifier(run, classifier, SEEN)
    return run.id


def test_a_logged_classifier_has_a_signature(experiment: Experiment, run_id: str) -> None:
    """MLflow shows which images go in and what comes out."""
    model = registry.get_logged_model_id(experiment.client, run_id)
    signature = mlflow.models.get_model_info(f"models:/{model}").signature
    assert [("uint8", (-1, 1, 12, 12))] == [(str(one.type), one.shape) for one in signature.inputs]
    assert [("float32", (-1, 3))] == [(str(one.type), one.shape) for one in signature.outputs]


def test_one_run_is_one_version(experiment: Experiment, classifier: Classifier, run_id: str) -> None:
    """Registering again gives the version there is; another run is the next one."""
    client = experiment.client
    assert "1" == registry.register(client, run_id, "zoo")
    assert "1" == registry.register(client, run_id, "zoo")
    with experiment.start_run("another", {}) as another:
        registry.log_classifier(another, classifier, SEEN)
    assert "2" == registry.register(client, another.id, "zoo")


def test_a_server_of_mlflow_takes_a_version(mlflow_page: str, ran: Ran) -> None:
    """Which it checks against the run and the model that it comes from; a store of our own does not."""
    client = MlflowClient(mlflow_page)
    experiment = client.get_experiment_by_name("digits").experiment_id
    (run, *_) = client.search_runs([experiment], "tags.`relearn.job_type` = 'train'")
    try:
        assert "1" == registry.register(client, run.info.run_id, "over-http")
    finally:
        client.delete_registered_model("over-http")


def test_aliases_are_brought_into_agreement(experiment: Experiment, run_id: str) -> None:
    """Set, moved and taken away; what was not so before is told, and what was is not touched."""
    client = experiment.client
    version = registry.register(client, run_id, "zoo")
    assert ["@champion of zoo meant nothing, the ledger says 1"] == registry.sync_aliases(
        client, "zoo", {"champion": version, "previous": None}
    )
    assert version == str(client.get_model_version_by_alias("zoo", "champion").version)
    assert [] == registry.sync_aliases(client, "zoo", {"champion": version, "previous": None})
    assert ["@champion of zoo meant 1, the ledger says nothing"] == registry.sync_aliases(
        client, "zoo", {"champion": None}
    )
    assert {} == client.get_registered_model("zoo").aliases


def test_what_was_learned_from_travels_with_the_classifier(
    experiment: Experiment, run_id: str, tmp_path: Path
) -> None:
    """Whoever judges it later knows which images it has seen."""
    folder = registry.download_classifier(experiment.client, run_id, tmp_path)
    assert sorted(SEEN.tolist()) == read_training_hashes(folder).tolist()


def test_what_is_fetched_predicts_as_what_was_logged(
    experiment: Experiment, classifier: Classifier, run_id: str, tmp_path: Path
) -> None:
    """The classifier comes back equal, as files that nothing has to unpickle."""
    folder = registry.download_classifier(experiment.client, run_id, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    np.testing.assert_array_equal(classifier.predict(images), Classifier.load(folder).predict(images))
    assert {"card.json", "weights.safetensors", "MLmodel"} <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin"}]


def test_a_run_without_a_classifier_is_said(experiment: Experiment) -> None:
    """A run that logged none, or whose files are gone, is one line."""
    with experiment.start_run("empty", {}) as run:
        pass
    with pytest.raises(NotFoundError, match="has no classifier"):
        registry.get_logged_model_id(experiment.client, run.id)


def test_files_that_are_gone_are_said(experiment: Experiment, classifier: Classifier, tmp_path: Path) -> None:
    """Artifacts deleted behind MLflow's back are one line, not a traceback."""
    with experiment.start_run("lost files", {}) as run:
        model = registry.log_classifier(run, classifier, SEEN)
    location = experiment.client.get_logged_model(model).artifact_location.removeprefix("file://")
    (Path(location) / "card.json").unlink()
    with pytest.raises((CorruptDataError, NotFoundError)):
        registry.download_classifier(experiment.client, run.id, tmp_path)
