"""Runs side by side: best first, with what differs, how they learned, and which of two is better."""

from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.evaluation.compare import compare, curves
from relearn.flows.evaluation.lookup import resolve_run
from relearn.flows.evaluation.paired_test import paired
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import hash_contents
from relearn.model.errors import DataError, NotFoundError, UserInputError
from relearn.model.home import Home
from tests.flows.zoo import SHAPE, Zoo, animal

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three training runs, and one that is none."""
    root = tmp_path_factory.mktemp("compared")
    home = Home(root, root)
    runs = {"a": (0.97, 0.10, "mlp"), "b": (0.99, 0.05, "cnn"), "c": (0.98, 0.20, "mlp")}
    experiment = Experiment.open_or_create(home, "zoo")
    for name, (accuracy, loss, network) in runs.items():
        with experiment.start_run(name, {"relearn.job_type": "train", "dataset": "zoo"}) as run:
            run.log_params({"network": network, "epochs": 3, "dataset": "auto"})
            run.log_metrics({"test_accuracy": accuracy, "test_loss": loss})
    with experiment.start_run("unfinished", {"relearn.job_type": "train", "dataset": "zoo"}):
        pass
    with Experiment.open_or_create(home, "park").start_run(
        "elsewhere", {"relearn.job_type": "train", "dataset": "park"}
    ) as run:
        run.log_params({"dataset": "folder:/park"})
    with experiment.start_run("parent", {"relearn.job_type": "retrain"}):
        pass
    return home


def test_best_first_by_the_direction_of_the_metric(home: Home) -> None:
    """High accuracies and low losses come first, runs without the value last, other runs not at all."""
    assert ["b", "c", "a", "unfinished"] == list(compare(home, name="zoo")["name"])
    assert ["b", "a", "c", "unfinished"] == list(compare(home, name="zoo", sort="test_loss")["name"])


def test_only_params_that_differ_are_shown(home: Home) -> None:
    """A setting that all runs share does not stand in the table."""
    table = compare(home, ["a", "b"])
    assert ["cnn", "mlp"] == list(table["network"])
    assert "epochs" not in table.columns


def test_runs_on_different_datasets_stand_in_one_table(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A param that is a column already does not stand there twice."""
    table = compare(home, ["a", "elsewhere"])
    assert ["zoo", "park"] == list(table["dataset"])
    assert len(table.columns) == len(set(table.columns))


def test_one_run_is_a_table_of_one(home: Home) -> None:
    """A single run is shown; named twice it stands once."""
    assert ["a"] == list(compare(home, ["a", "a"])["name"])


def test_what_is_not_there_is_said(home: Home, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An unknown run, experiment or metric, and a home without runs, are one line each."""
    with pytest.raises(NotFoundError, match="no run 'nobody'"):
        compare(home, ["a", "nobody"])
    with pytest.raises(NotFoundError, match=r"no experiment 'forest' in MLflow, there are: .*zoo"):
        compare(home, name="forest")
    with pytest.raises(
        UserInputError, match="--order-by: got 'beauty', accepted: a metric such as test_accuracy"
    ):
        compare(home, sort="beauty")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(NotFoundError, match="no run yet"):
        compare(Home(empty, empty))


def test_a_filter_of_mlflow_chooses(home: Home) -> None:
    """By metrics, params and tags, among all runs or those that are named."""
    assert ["c", "a"] == list(compare(home, name="zoo", where="params.network = 'mlp'")["name"])
    assert ["b"] == list(compare(home, ["a", "b"], where="metrics.test_accuracy > 0.98")["name"])
    assert ["elsewhere"] == list(compare(home, where="tags.dataset = 'park'")["name"])
    with pytest.raises(NotFoundError, match="no training run fits --filter"):
        compare(home, where="params.network = 'rnn'")
    with pytest.raises(NotFoundError, match="none of these runs fits --filter"):
        compare(home, ["a"], where="params.network = 'cnn'")


@pytest.mark.parametrize(
    "where",
    ["", " ", "network", "params.network = cnn", "metrics.loss > 'x'", "params.a = 'b' or params.a = 'c'"],
)
def test_a_filter_that_is_none_is_one_line(home: Home, where: str) -> None:
    """With an example of one, and what MLflow says to it."""
    with pytest.raises(
        UserInputError, match=r"--filter: got .*accepted: a filter of MLflow's, such as \"params"
    ):
        compare(home, where=where)


def test_columns_are_picked(home: Home) -> None:
    """Metrics, params and tags, in the order they are named; one that no run has is refused."""
    table = compare(home, ["a", "b"], columns=("epochs", "test_loss", "relearn.job_type", "status"))
    assert ["run", "name", "epochs", "test_loss", "relearn.job_type", "status"] == list(table.columns)
    assert [("3", 0.05, "train", "FINISHED")] == [tuple(table.iloc[0])[2:]]
    with pytest.raises(
        UserInputError, match="got 'epohcs', which none of these runs has; did you mean 'epochs'"
    ):
        compare(home, columns=("epohcs",))


def test_two_runs_stand_as_they_are_named_with_their_difference(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The first, the second, and the second minus the first."""
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    assert ["a", "b"] == list(compare(home, ["a", "b"], sort=None)["name"])
    assert 0 == run_command_line(["compare", "a", "b"])
    rows = cells(capsys.readouterr().out)

    assert ["a", "b", ""] == rows["name"]
    assert ["0.97", "0.99", "+0.02"] == rows["test_accuracy"]
    assert ["0.1", "0.05", "-0.05"] == rows["test_loss"]
    assert ["mlp", "cnn", ""] == rows["network"]


def test_the_learning_of_several_runs_is_one_figure(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Each run under its name, with its id where another has it too; no file is replaced unasked."""
    experiment = Experiment.open_or_create(home, "learned")
    for name, epochs in {"x": 3, "y": 2}.items():
        for _ in range(2 if name == "y" else 1):
            with experiment.start_run(name, {"relearn.job_type": "train", "dataset": "zoo"}) as run:
                for step in range(1, epochs + 1):
                    run.log_metrics({"val_loss": 1 / step, "train_loss": 2 / step, "val_accuracy": 0.5}, step)
                run.log_metrics({"train_loss": float("inf")}, epochs)
    found = experiment.client.search_runs([experiment.id])
    figure = curves(home, [one.info.run_id for one in found])
    loss = figure.axes[0]
    (x,) = [line for line in loss.lines if line.get_label() == "x"]

    assert [1.0, 0.5, 1 / 3] == list(x.get_ydata())
    labels = {line.get_label() for line in loss.lines if not str(line.get_label()).startswith("_")}
    assert {"x", *(f"{one.info.run_id[:8]} y" for one in found if one.info.run_name == "y")} == labels
    assert loss.get_ylim()[1] < 3

    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    for name, start in {"runs.png": b"\x89PNG", "runs.svg": b"<?xml"}.items():
        words = ["compare", "--model-name", "learned", "--curves", str(tmp_path / name)]
        assert 0 == run_command_line(words), capsys.readouterr()
        assert (tmp_path / name).read_bytes().startswith(start)
        assert 2 == run_command_line(words)
        assert "add --force to replace a file" in capsys.readouterr().err
    assert 2 == run_command_line(["compare", "--curves", "runs.pdf"])
    assert "got runs.pdf, accepted: a name that ends in .png or .svg" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="none of these runs has ended an epoch"):
        curves(home, [compare(home, ["a"]).index[0]])


def test_versions_are_named_as_everywhere(zoo: Zoo) -> None:
    """`zoo@2`, its number, what is live, what was before; the table tells which run is which version."""
    zoo.promote("1")
    zoo.promote("3")
    asked = ["zoo@2", "1", "zoo@champion", "zoo@previous"]
    assert ["2", "1", "3", "1"] == [resolve_run(zoo.home, one).version for one in asked]
    assert ["animal 1", "animal 3"] == list(compare(zoo.home, ["zoo@1", "zoo@champion"], sort=None)["name"])
    assert ["zoo@1", "zoo@3"] == list(compare(zoo.home, ["1", "3"], sort=None)["version"])
    with pytest.raises(NotFoundError, match="got 'zoo@9', registered as zoo: 1, 2, 3"):
        resolve_run(zoo.home, "zoo@9")
    with pytest.raises(NotFoundError, match="nothing released as 'park'; released: zoo"):
        resolve_run(zoo.home, "park@1")


@pytest.fixture
def tested(zoo: Zoo) -> Zoo:
    """Version 1 is live, and its reference are 60 images, of which version 2 has learned 10."""
    images = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    reference = ReferenceSet(LabelledImages(images, np.arange(60) % 3), ("ant", "bee", "cow"), "the zoo")
    zoo.promote("1", reference.save(zoo.releases))
    experiment = Experiment.open_or_create(zoo.home, "zoo")
    with experiment.start_run("learned", {"relearn.job_type": "train"}) as run:
        registry.log_classifier(run, animal(2), hash_contents(images[:10]))
    return zoo


def test_two_answer_the_same_images(tested: Zoo, capsys: Capture) -> None:
    """Those of the reference that neither has learned from; gains and losses are counted pair by pair."""
    done = paired(tested.home, ["zoo@1", "learned"])
    reference = ReferenceSet.load(
        tested.releases, ReleaseState.from_store(tested.releases).reference_fingerprint
    )
    images, labels = reference.test_images.images[10:], reference.test_images.labels[10:]
    first, second = (animal(seed).predict(images).argmax(1) == labels for seed in (1, 2))

    assert (50, 10, "reference images of zoo") == (done.comparison.images, done.left_out, done.images)
    assert int((second & ~first).sum()) == done.comparison.candidate_only_correct
    assert int((first & ~second).sum()) == done.comparison.champion_only_correct
    assert (first.mean(), second.mean()) == tuple(one.accuracy for one in done.evaluations)

    assert 0 == run_command_line(["compare", "zoo@1", "learned", "--paired"]), capsys.readouterr()
    said = " ".join(capsys.readouterr().out.split())
    assert f"learned and zoo@1 differ by no more than chance: {done.comparison}" in said
    assert "10 reference images of zoo are left out: one of the two was trained on them" in said


def test_two_answer_the_images_of_any_dataset(tested: Zoo, tmp_path: Path) -> None:
    """With the same classes, brought to their shape."""
    images = np.random.default_rng(1).integers(0, 256, (90, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "more.npz", images=images, labels=np.array(["ant", "bee", "cow"])[np.arange(90) % 3])
    done = paired(tested.home, ["1", "learned"], on=f"npz:{tmp_path / 'more.npz'}")

    assert 0 == done.left_out
    assert f"test images of npz:{tmp_path / 'more.npz'}" == done.images
    with pytest.raises(DataError, match="--dataset: its classes are 0, 1, 2"):
        paired(tested.home, ["1", "learned"], on="digits")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["1", "--paired"], "--paired: got 1 runs, accepted: two of them"),
        (["1", "2", "3", "--dataset", "digits"], "--dataset: got 3 runs, accepted: two of them"),
        (["1", "zoo@1", "--paired"], "--paired: got zoo@1 and zoo@1, which are the same run"),
        (["1", "zoo@8", "--paired"], "version: got 'zoo@8', registered as zoo: 1, 2, 3"),
    ],
)
def test_what_cannot_be_paired_is_one_line(tested: Zoo, words: list[str], line: str, capsys: Capture) -> None:
    """What was got, what is accepted."""
    assert 2 == run_command_line(["compare", *words])
    assert capsys.readouterr().err.splitlines()[0].endswith(line)


def cells(printed: str) -> dict[str, list[str]]:
    """The rows of a printed table, by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}
