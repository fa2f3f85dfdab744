"""Classifiers in MLflow's registry: files without pickle, a signature, one version per run."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import mlflow
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

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
TRAINING_HASHES = np.array([[7, 1], [3, 2], [2**63 + 5, 3]], np.uint64)


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
    """The id of a run that has logged its classifier."""
    with experiment.start_run("cnn", {}) as run:
        registry.log_classifier(run, classifier, TRAINING_HASHES)
    return run.id


def test_logged_classifier_has_a_signature(experiment: Experiment, run_id: str) -> None:
    """It describes the input images and the output probabilities."""
    model = registry.get_logged_model_id(experiment.client, run_id)
    signature = mlflow.models.get_model_info(f"models:/{model}").signature
    assert [("uint8", (-1, 1, 12, 12))] == [(str(spec.type), spec.shape) for spec in signature.inputs]
    assert [("float32", (-1, 3))] == [(str(spec.type), spec.shape) for spec in signature.outputs]


def test_each_run_has_one_version(experiment: Experiment, classifier: Classifier, run_id: str) -> None:
    """Registering a run again returns its version; another run gets the next one."""
    client = experiment.client
    assert "1" == registry.register(client, run_id, "zoo", {})
    assert "1" == registry.register(client, run_id, "zoo", {})
    with experiment.start_run("another", {}) as another:
        registry.log_classifier(another, classifier, TRAINING_HASHES)
    assert "2" == registry.register(client, another.id, "zoo", {})


def test_mlflow_server_accepts_a_version(mlflow_page: str, ran: Ran) -> None:
    """The server checks the version against its run and model; a local store does not."""
    client = MlflowClient(mlflow_page)
    experiment_id = client.get_experiment_by_name("digits").experiment_id
    (run, *_) = client.search_runs([experiment_id], "tags.`relearn.job_type` = 'train'")
    try:
        assert "1" == registry.register(client, run.info.run_id, "over-http", {})
    finally:
        client.delete_registered_model("over-http")


@pytest.fixture(scope="module")
def runs(experiment: Experiment, classifier: Classifier) -> list[str]:
    """The ids of five runs that have logged a classifier."""
    run_ids = []
    for number in range(5):
        with experiment.start_run(f"run {number}", {}) as run:
            registry.log_classifier(run, classifier, TRAINING_HASHES)
        run_ids.append(run.id)
    return run_ids


@settings(max_examples=8, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["release", "release", "by hand", "delete", "rename", "delete all"]),
            st.integers(0, 4),
        ),
        max_size=8,
    )
)
def test_number_names_one_run_whatever_happens_in_mlflow(
    experiment: Experiment, runs: list[str], steps: list[tuple[str, int]]
) -> None:
    """A release keeps its number, no two have the same, and the alias can be set to each of their runs."""
    client, name, released = experiment.client, f"zoo-{uuid4()}", dict[str, str]()
    for step, number in steps:
        with suppress(MlflowException):  # nothing is there to delete
            if step == "release":
                label = registry.register(client, runs[number], name, released)
                assert runs[number] == released.setdefault(label, runs[number])
            elif step == "by hand":
                client.create_model_version(name, "elsewhere", runs[number])
            elif step == "delete":
                client.delete_model_version(name, str(number))
            elif step == "rename":
                client.rename_registered_model(name, f"{name}-{uuid4()}")
            else:
                client.delete_registered_model(name)
    assert len(released) == len(set(released.values()))
    for label, run_id in released.items():
        assert label == registry.register(client, run_id, name, released)
        expected = {"champion": registry.Version(label, run_id)}
        registry.sync_aliases(client, name, expected, released)
        assert run_id == client.get_model_version_by_alias(name, "champion").run_id
        assert [] == registry.sync_aliases(client, name, expected, released)


def test_aliases_are_synced_with_the_ledger(experiment: Experiment, run_id: str) -> None:
    """Aliases are set and deleted with a message for each change; correct aliases are not touched."""
    client = experiment.client
    version = registry.Version(registry.register(client, run_id, "zoo", {}), run_id)
    assert [f"@champion of zoo pointed to no version, the ledger says {version}"] == registry.sync_aliases(
        client, "zoo", {"champion": version, "previous": None}, {}
    )
    assert version.number == str(client.get_model_version_by_alias("zoo", "champion").version)
    assert [] == registry.sync_aliases(client, "zoo", {"champion": version, "previous": None}, {})
    assert [f"@champion of zoo pointed to {version}, the ledger says no version"] == registry.sync_aliases(
        client, "zoo", {"champion": None}, {}
    )
    assert {} == client.get_registered_model("zoo").aliases


def test_training_hashes_are_downloaded_with_the_classifier(
    experiment: Experiment, run_id: str, tmp_path: Path
) -> None:
    """The gate needs to know which images a classifier was trained on."""
    folder = registry.download_classifier(experiment.client, run_id, tmp_path)
    assert sorted(TRAINING_HASHES.tolist()) == read_training_hashes(folder).tolist()


def test_downloaded_classifier_predicts_like_the_logged_one(
    experiment: Experiment, classifier: Classifier, run_id: str, tmp_path: Path
) -> None:
    """Its files contain no pickle."""
    folder = registry.download_classifier(experiment.client, run_id, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    np.testing.assert_array_equal(classifier.predict(images), Classifier.load(folder).predict(images))
    assert {"card.json", "weights.safetensors", "MLmodel"} <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin"}]


def test_run_without_a_classifier_is_reported(experiment: Experiment) -> None:
    """The error is one line."""
    with experiment.start_run("empty", {}) as run:
        pass
    with pytest.raises(NotFoundError, match="has no classifier"):
        registry.get_logged_model_id(experiment.client, run.id)


def test_missing_artifacts_are_reported(
    experiment: Experiment, classifier: Classifier, tmp_path: Path
) -> None:
    """Files that were deleted without MLflow are an error of ours, not a traceback."""
    with experiment.start_run("lost files", {}) as run:
        model_id = registry.log_classifier(run, classifier, TRAINING_HASHES)
    location = experiment.client.get_logged_model(model_id).artifact_location.removeprefix("file://")
    (Path(location) / "card.json").unlink()
    with pytest.raises((CorruptDataError, NotFoundError)):
        registry.download_classifier(experiment.client, run.id, tmp_path)
