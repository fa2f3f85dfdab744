"""A trained classifier is scored on any data that knows its classes, and on no other."""

from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.evaluation.compare import compare
from relearn.flows.evaluation.evaluate import evaluate, reorder_labels
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.prepared import prepare_dataset
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.inference.classifier import Classifier, ModelCard
from relearn.model.networks.registry import build_network, count_parameters

ANIMALS = ("ant", "bee", "[cow]")  # the last would be a style, were it not escaped


@pytest.fixture
def run(copied: Home) -> str:
    """The best training that `ran` left."""
    return str(compare(copied)["run"].iloc[0])


def animals(path: Path, names: tuple[str, ...], side: int = 12) -> str:
    """A file of 90 random images of as many classes, as a dataset."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (90, side, side), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array(names)[np.arange(90) % len(names)])
    return f"npz:{path}"


@pytest.fixture
def zoo(copied: Home, tmp_path: Path) -> str:
    """A run whose classifier knows three animals on images of 12 × 12, untrained."""
    config = TrainConfig(dataset=animals(tmp_path / "zoo.npz", ANIMALS), hidden_sizes=(8,))
    network = build_network(config, (1, 12, 12), 3)
    card = ModelCard(
        config=config,
        dataset="zoo",
        classes=ANIMALS,
        shape=(1, 12, 12),
        style="photo",
        fingerprint="f" * 64,
        parameters=count_parameters(network),
    )
    with Experiment.open_or_create(copied, "zoo").start_run("the zoo", {"relearn.job_type": "train"}) as run:
        registry.log_classifier(run, Classifier(network, card), np.empty(0, np.uint64))
    return run.id


def test_its_own_test_images_give_the_figures_of_training(copied: Home, run: str) -> None:
    """Without another dataset the score is the one that the training has logged."""
    scored = evaluate(copied, run)
    client = connect(copied)
    trained = next(one for one in client.search_runs(["1"]) if one.info.run_id.startswith(run))
    logged = next(one for one in client.search_runs(["1"]) if one.data.tags["relearn.job_type"] == "evaluate")

    assert ("digits", 292) == (scored.dataset, len(scored.evaluation))
    assert trained.data.metrics["test_accuracy"] == pytest.approx(scored.evaluation.accuracy, abs=1e-9)
    assert trained.data.metrics["test_loss"] == pytest.approx(logged.data.metrics["test_loss"], abs=1e-5)
    assert f"{trained.info.run_name} on digits" == logged.info.run_name
    assert trained.info.run_id == logged.data.tags["relearn.evaluated_run"]
    files = {file.path for file in client.list_artifacts(logged.info.run_id, "test")}
    assert {"test/confusion.png", "test/worst_mistakes.png", "test/mistakes.csv"} == files


def test_an_evaluation_is_no_training_to_compare(copied: Home, run: str) -> None:
    """The table of trainings stays the same."""
    before = list(compare(copied)["run"])
    evaluate(copied, run)
    assert before == list(compare(copied)["run"])


def test_another_dataset_is_brought_to_the_shape_of_the_classifier(
    copied: Home, run: str, tmp_path: Path
) -> None:
    """The same handwriting as an array of other sizes, labelled by numbers."""
    part = prepare_dataset(TrainConfig(dataset="digits"), copied).splits.train
    larger = part.images[:, 0].repeat(2, axis=1).repeat(2, axis=2)
    np.savez(tmp_path / "large.npz", images=larger[:600], labels=part.labels[:600])
    scored = evaluate(copied, run, f"npz:{tmp_path / 'large.npz'}")

    assert "large" == scored.dataset
    assert 10 == scored.evaluation.probabilities.shape[1]
    assert scored.evaluation.accuracy > 0.5  # of what was learned from; the half of it that enlarging keeps


def test_other_classes_are_refused(
    copied: Home, zoo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both lists of classes are shown, and no evaluation is logged."""
    other = animals(tmp_path / "park.npz", ("ant", "bee", "fox"))

    assert 2 == run_command_line(["evaluate", zoo[:8], "--dataset", other])
    assert (
        "error[data]: the classes of the data are ant, bee, fox; the classifier knows ant, bee, [cow]\n"
        == capsys.readouterr().err
    )
    client = connect(copied)
    found = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert ["train"] == [one.data.tags["relearn.job_type"] for one in found]


def test_classes_are_told_by_their_names(copied: Home, zoo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each, under the name it has, and the whole in one line."""
    assert 0 == run_command_line(["evaluate", "the zoo"])

    said = capsys.readouterr()
    assert "" == said.err
    rows = [line.split("│") for line in said.out.splitlines() if line.startswith("│")]
    assert sorted(ANIMALS) == sorted(row[1].strip() for row in rows)
    assert sum(int(row[5]) for row in rows) == int(said.out.split(" images right")[0].split()[-1])


def test_a_run_without_a_classifier_is_refused(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The run of a whole retraining has none of its own."""
    assert 2 == run_command_line(["evaluate", "retrain on digits"])
    assert "has no classifier\n" in capsys.readouterr().err


def test_labels_follow_the_order_of_the_classifier() -> None:
    """The same class is the same number, in whatever order the data lists its classes."""
    split = LabelledImages(np.zeros((3, 1, 8, 8), np.uint8), np.array([0, 1, 2]))

    assert [1, 2, 0] == reorder_labels(split, ("b", "c", "a"), ("a", "b", "c")).labels.tolist()
    with pytest.raises(DataError, match="the classes of the data are a, b; the classifier knows a, c"):
        reorder_labels(split, ("a", "b"), ("a", "c"))
