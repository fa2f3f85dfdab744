"""Runs side by side: best first, with what differs."""

import pytest

from flows.compare import compare
from flows.tracking import Experiment
from model.errors import InputError, NotFoundError
from model.home import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three training runs, and one that is none."""
    root = tmp_path_factory.mktemp("compared")
    home = Home(root, root)
    runs = {"a": (0.97, 0.10, "mlp"), "b": (0.99, 0.05, "cnn"), "c": (0.98, 0.20, "mlp")}
    experiment = Experiment.open(home, "zoo")
    for name, (accuracy, loss, network) in runs.items():
        with experiment.run(name, {"relearn.kind": "train", "dataset": "zoo"}) as run:
            run.params({"network": network, "epochs": 3, "dataset": "auto"})
            run.metrics({"test_accuracy": accuracy, "test_loss": loss})
    with experiment.run("unfinished", {"relearn.kind": "train", "dataset": "zoo"}):
        pass
    with Experiment.open(home, "park").run("elsewhere", {"relearn.kind": "train", "dataset": "park"}) as run:
        run.params({"dataset": "folder:/park"})
    with experiment.run("parent", {"relearn.kind": "retrain"}):
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
    with pytest.raises(InputError, match="--sort: got 'beauty', accepted: a metric such as test_accuracy"):
        compare(home, sort="beauty")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(NotFoundError, match="no run yet"):
        compare(Home(empty, empty))
