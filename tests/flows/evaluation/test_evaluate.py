"""Evaluation of a classifier on any dataset with the same classes."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.evaluation.compare import compare_runs
from relearn.flows.evaluation.evaluate import evaluate_run, reorder_labels, select_unseen
from relearn.flows.evaluation.report import build_report
from relearn.flows.tracking import registry
from relearn.flows.tracking.artifacts import load_artifact
from relearn.flows.tracking.runs import Experiment
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import hash_contents
from relearn.model.errors import DataError
from relearn.model.home import Home
from relearn.model.images.allocate import allocate_in_memory
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network
from relearn.model.networks.summary import count_parameters
from relearn.model.preparation.prepared import prepare_dataset

ANIMALS = ("ant", "bee", "[cow]<b>")  # would be Rich markup and HTML if it were not escaped


@pytest.fixture
def run(copied: Home) -> str:
    """The best training in the home of `ran`."""
    return str(compare_runs(copied)["run"].iloc[0])


def save_animals(path: Path, names: tuple[str, ...], side: int = 12) -> str:
    """Save 90 random images of these classes; return the dataset."""
    images = np.random.default_rng(0).integers(0, 256, (90, side, side), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array(names)[np.arange(90) % len(names)])
    return f"npz:{path}"


@pytest.fixture
def zoo(copied: Home, tmp_path: Path) -> Path:
    """The file of 90 images of 12 × 12, and two runs of the same untrained classifier of three animals.

    "the zoo" has learned from none of the images, "learned 60" from the first 60.
    """
    config = TrainConfig(dataset=save_animals(tmp_path / "zoo.npz", ANIMALS), hidden_sizes=(8,))
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
    hashes = hash_contents(np.load(tmp_path / "zoo.npz")["images"][:60, None])[:, None]
    for name, learned in {"the zoo": hashes[:0], "learned 60": hashes}.items():
        with Experiment.open_or_create(copied, "zoo").start_run(name, {"relearn.job_type": "train"}) as run:
            registry.log_classifier(run, Classifier(network, card), learned)
    return tmp_path / "zoo.npz"


def test_evaluation_on_own_test_images_equals_that_of_the_training(copied: Home, run: str) -> None:
    """Without another dataset the metrics are those that the training has logged."""
    result = evaluate_run(copied, run)
    client = connect(copied)
    runs = client.search_runs(["1"])
    training = next(logged for logged in runs if logged.info.run_id.startswith(run))
    evaluation = next(logged for logged in runs if logged.data.tags["relearn.job_type"] == "evaluate")

    assert ("digits", 292) == (result.prepared.name, len(result.evaluation))
    assert "292 test images of digits, 0 left out because the run learned from them" == result.images
    assert training.data.metrics["test/accuracy"] == pytest.approx(result.evaluation.accuracy, abs=1e-9)
    assert training.data.metrics["test/loss"] == pytest.approx(evaluation.data.metrics["test/loss"], abs=1e-5)
    assert f"{training.info.run_name} on digits" == evaluation.info.run_name
    assert training.info.run_id == evaluation.data.tags["relearn.evaluated_run"]
    files = {file.path for file in client.list_artifacts(evaluation.info.run_id, "test")}
    assert {"test/confusion.png", "test/worst_mistakes.png", "test/mistakes.csv"} == files


def test_evaluation_run_is_not_compared_with_trainings(copied: Home, run: str) -> None:
    """The table of trainings stays the same."""
    runs = list(compare_runs(copied)["run"])
    evaluate_run(copied, run)
    assert runs == list(compare_runs(copied)["run"])


def test_images_of_another_dataset_are_resized_for_the_classifier(
    copied: Home, run: str, tmp_path: Path
) -> None:
    """The dataset has larger digits, labeled by numbers."""
    split = prepare_dataset(TrainConfig(dataset="digits"), copied).splits.train
    enlarged = split.images[:, 0].repeat(2, axis=1).repeat(2, axis=2)
    np.savez(tmp_path / "large.npz", images=enlarged[:600], labels=split.labels[:600])
    result = evaluate_run(copied, run, f"npz:{tmp_path / 'large.npz'}")

    assert "large" == result.prepared.name
    assert 10 == result.evaluation.probabilities.shape[1]
    assert result.evaluation.accuracy > 0.5  # of training images, blurred by the enlargement


def test_images_that_the_run_learned_from_are_left_out() -> None:
    """Images that were learned from are removed from each split; the others keep order and labels."""
    images = np.random.default_rng(0).integers(0, 256, (90, 1, 8, 8), dtype=np.uint8)
    parts = [
        LabelledImages(images[start : start + 30], np.arange(start, start + 30)) for start in (0, 30, 60)
    ]
    learned = np.arange(90) % 7 == 0
    unseen = select_unseen(parts, hash_contents(images[learned]), allocate_in_memory)

    assert np.flatnonzero(~learned).tolist() == unseen.labels.tolist()
    assert np.array_equal(images[~learned], unseen.images)


def test_images_of_a_group_count_as_one() -> None:
    """The groups of all splits are kept, also in the class order of the classifier."""
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    groups = np.repeat(np.arange(6, dtype=np.uint64), 10)[:, None].repeat(2, axis=1)
    halves = (slice(0, 30), slice(30, 60))
    parts = [LabelledImages(images[half], np.zeros(30, int), groups=groups[half]) for half in halves]
    unseen = select_unseen(parts, np.empty((0, 2), np.uint64), allocate_in_memory)

    assert np.array_equal(groups, reorder_labels(unseen, ("a", "b"), ("b", "a")).groups)


def test_a_run_is_never_scored_on_its_training_images(copied: Home, run: str) -> None:
    """Given its own dataset by name, what remains are its test images."""
    result = evaluate_run(copied, run, "digits")
    logged = next(
        logged for logged in connect(copied).search_runs(["1"]) if logged.info.run_id.startswith(run)
    )

    assert "292 images of digits, 1,505 left out because the run learned from them" == result.images
    assert logged.data.metrics["test/loss"] == pytest.approx(result.evaluation.loss, abs=1e-5)


def test_data_that_the_run_learned_from_entirely_are_rejected(
    copied: Home, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that learned from all images gets one line, and no evaluation is logged."""
    data = np.load(zoo)
    np.savez(zoo.with_name("part.npz"), images=data["images"][:60], labels=data["labels"][:60])

    assert 2 == run_command_line(["evaluate", "learned 60", "--dataset", f"npz:{zoo.with_name('part.npz')}"])
    assert "part.npz: the run learned from all 60 images, accepted: " in capsys.readouterr().err
    client = connect(copied)
    runs = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert ["train", "train"] == [run.data.tags["relearn.job_type"] for run in runs]


def test_other_classes_are_rejected(
    copied: Home, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has both lists of classes, and no evaluation is logged."""
    dataset = save_animals(tmp_path / "park.npz", ("ant", "bee", "fox"))

    assert 2 == run_command_line(["evaluate", "the zoo", "--dataset", dataset])
    assert (
        "error[data]: the classes of the data are ant, bee, fox; the classifier knows ant, bee, [cow]<b>\n"
        == capsys.readouterr().err
    )
    client = connect(copied)
    runs = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert ["train", "train"] == [run.data.tags["relearn.job_type"] for run in runs]


def test_data_of_another_scale_are_rejected(
    copied: Home, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A classifier that learned from 0 to 255 evaluates no fractions, and no evaluation is logged."""
    images = np.random.default_rng(0).random((90, 12, 12))
    np.savez(tmp_path / "park.npz", images=images, labels=np.array(ANIMALS)[np.arange(90) % 3])

    assert 2 == run_command_line(["evaluate", "the zoo", "--dataset", f"npz:{tmp_path / 'park.npz'}"])
    assert "1 is white in the data, accepted: 255, as in the data of zoo" in capsys.readouterr().err
    client = connect(copied)
    runs = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert ["train", "train"] == [run.data.tags["relearn.job_type"] for run in runs]


def test_all_images_of_a_given_dataset_are_evaluated(
    copied: Home, zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not only its test part. A row for each class, which images they are, the totals at the end."""
    assert 0 == run_command_line(["evaluate", "the zoo", "--dataset", f"npz:{zoo}"])

    printed = capsys.readouterr()
    assert "" == printed.err
    rows = [line.split("│") for line in printed.out.splitlines() if line.startswith("│")]
    assert sorted(ANIMALS) == sorted(row[1].strip() for row in rows)
    assert [30, 30, 30] == [int(row[5]) for row in rows]
    line = f"90 images of npz:{zoo}, 0 left out because the run learned from them"
    assert line in printed.out.splitlines()
    assert re.search(
        r"^Accuracy \d+\.\d % \(95 % interval \d+\.\d–\d+\.\d, 90 images\), loss", printed.out, re.M
    )


class PageReader(HTMLParser):
    """Collects the text, the tags and the addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.addresses = "", set[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "style")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_report_is_one_escaped_page(
    copied: Home, zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It loads nothing, runs no script, shows names as text, and is kept in MLflow, too."""
    file = tmp_path / "report.html"
    command = ["evaluate", "the zoo", "--dataset", f"npz:{zoo}", "--report", str(file)]
    assert 0 == run_command_line(command)

    page = PageReader(file.read_text())
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert set() == page.tags & {"script", "link"}
    assert "url(" not in page.text
    assert "@import" not in page.text
    assert "[cow]<b>" in page.text
    for title in ("Verdict", "Data", "Confusion matrix", "Most confident errors", "Calibration", "Settings"):
        assert title in page.text
    (run,) = connect(copied).search_runs(
        [experiment.experiment_id for experiment in connect(copied).search_experiments()],
        "attributes.run_name = 'the zoo'",
    )
    assert file.read_text() == load_artifact(run.info.run_id, "report.html")

    assert 2 == run_command_line(command)
    assert f"--report: {file} exists; add --force to replace a file" in capsys.readouterr().err


def test_report_of_a_retraining_is_that_of_its_choice(copied: Home, run: str) -> None:
    """It has curves, images of each class, the decision of the gate and the accuracy under corruptions."""
    (parent,) = connect(copied).search_runs(["1"], "tags.`relearn.job_type` = 'retrain'")
    result = evaluate_run(copied, parent.info.run_id)
    page = PageReader(build_report(copied, result))

    assert result.run_id.startswith(run)
    for text in ("Learning curves", "Best epoch:", "better than guessing", "inverted", "292 test images"):
        assert text in page.text


def test_run_without_a_classifier_is_rejected(copied: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A retraining that was interrupted has none."""
    with Experiment.open_or_create(copied, "digits").start_run("stopped", {"relearn.job_type": "retrain"}):
        pass
    assert 2 == run_command_line(["evaluate", "stopped"])
    assert "has no classifier\n" in capsys.readouterr().err


def test_labels_follow_the_order_of_the_classifier() -> None:
    """A class has the same index, whatever the class order of the data."""
    split = LabelledImages(np.zeros((3, 1, 8, 8), np.uint8), np.array([0, 1, 2]))

    assert [1, 2, 0] == reorder_labels(split, ("b", "c", "a"), ("a", "b", "c")).labels.tolist()
    with pytest.raises(DataError, match="the classes of the data are a, b; the classifier knows a, c"):
        reorder_labels(split, ("a", "b"), ("a", "c"))
