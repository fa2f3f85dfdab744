"""Comparison of runs: table, learning curves, lookup and paired test."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from relearn.flows.cli.app import run_command_line
from relearn.flows.evaluation.compare import compare_runs, plot_curves
from relearn.flows.evaluation.paired_comparison import run_paired_test
from relearn.flows.evaluation.run_resolver import resolve_run
from relearn.flows.releases.reference_set import ReferenceSet
from relearn.flows.releases.release_state import ReleaseState
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import Experiment
from relearn.model.data.splits import hash_contents, hash_with_salts
from relearn.model.errors import CorruptDataError, DataError, NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.model.images.decode import encode_png
from tests.flows.zoo import SHAPE, Zoo, animal

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Home with training runs of two experiments, and one run of another type."""
    root = tmp_path_factory.mktemp("compared")
    home = Home(root, root)
    runs = {"a": (0.97, 0.10, "mlp"), "b": (0.99, 0.05, "cnn"), "c": (0.98, 0.20, "mlp")}
    experiment = Experiment.open_or_create(home, "zoo")
    for name, (accuracy, loss, network) in runs.items():
        with experiment.start_run(name, {"relearn.job_type": "train", "dataset": "zoo"}) as run:
            run.log_params({"network": network, "epochs": 3, "dataset": "auto"})
            run.log_metrics({"test/accuracy": accuracy, "test/loss": loss})
    with experiment.start_run("unfinished", {"relearn.job_type": "train", "dataset": "zoo"}):
        pass
    with Experiment.open_or_create(home, "park").start_run(
        "elsewhere", {"relearn.job_type": "train", "dataset": "park"}
    ) as run:
        run.log_params({"dataset": "folder:/park"})
    with experiment.start_run("parent", {"relearn.job_type": "retrain"}):
        pass
    return home


def test_runs_are_sorted_by_the_direction_of_the_metric(home: Home) -> None:
    """High accuracies and low losses are first, runs without the value last; other run types are left out."""
    assert ["b", "c", "a", "unfinished"] == list(compare_runs(home, name="zoo")["name"])
    assert ["b", "a", "c", "unfinished"] == list(compare_runs(home, name="zoo", order_by="test/loss")["name"])


def test_only_params_that_differ_are_shown(home: Home) -> None:
    """A setting that all runs share is not in the table."""
    table = compare_runs(home, ["a", "b"])
    assert ["cnn", "mlp"] == list(table["network"])
    assert "epochs" not in table.columns


def test_dataset_column_is_not_repeated_by_its_param(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs on different datasets have one column for the dataset."""
    table = compare_runs(home, ["a", "elsewhere"])
    assert ["zoo", "park"] == list(table["dataset"])
    assert len(table.columns) == len(set(table.columns))


def test_run_that_is_named_twice_is_one_row(home: Home) -> None:
    """A single run is a table too."""
    assert ["a"] == list(compare_runs(home, ["a", "a"])["name"])


def test_unknown_run_experiment_or_metric_is_rejected(
    home: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A home without runs is reported too."""
    with pytest.raises(NotFoundError, match="no run 'nobody'"):
        compare_runs(home, ["a", "nobody"])
    with pytest.raises(NotFoundError, match=r"no experiment 'forest' in MLflow, there are: .*zoo"):
        compare_runs(home, name="forest")
    with pytest.raises(
        UserInputError, match="--order-by: got 'beauty', accepted: a metric such as test/accuracy"
    ):
        compare_runs(home, order_by="beauty")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(NotFoundError, match="no run yet"):
        compare_runs(Home(empty, empty))


def test_mlflow_filter_selects_runs(home: Home) -> None:
    """It uses metrics, params and tags, among all runs or the given ones."""
    assert ["c", "a"] == list(compare_runs(home, name="zoo", filter_string="params.network = 'mlp'")["name"])
    assert ["b"] == list(
        compare_runs(home, ["a", "b"], filter_string='metrics."test/accuracy" > 0.98')["name"]
    )
    assert ["elsewhere"] == list(compare_runs(home, filter_string="tags.dataset = 'park'")["name"])
    with pytest.raises(NotFoundError, match="no training run fits --filter"):
        compare_runs(home, filter_string="params.network = 'rnn'")
    with pytest.raises(NotFoundError, match="none of these runs fits --filter"):
        compare_runs(home, ["a"], filter_string="params.network = 'cnn'")


@pytest.mark.parametrize(
    "filter_string",
    ["", " ", "network", "params.network = cnn", "metrics.loss > 'x'", "params.a = 'b' or params.a = 'c'"],
)
def test_invalid_filter_is_rejected(home: Home, filter_string: str) -> None:
    """The message has an example."""
    with pytest.raises(
        UserInputError, match=r"--filter: got .*accepted: a filter string of MLflow, such as .params"
    ):
        compare_runs(home, filter_string=filter_string)


def test_columns_are_selected(home: Home) -> None:
    """Metrics, params and tags have the given order; one that no run has is rejected."""
    table = compare_runs(home, ["a", "b"], columns=("epochs", "test/loss", "relearn.job_type", "status"))
    assert ["run", "name", "epochs", "test/loss", "relearn.job_type", "status"] == list(table.columns)
    assert [("3", 0.05, "train", "FINISHED")] == [tuple(table.iloc[0])[2:]]
    with pytest.raises(
        UserInputError, match="got 'epohcs', which none of these runs has; did you mean 'epochs'"
    ):
        compare_runs(home, columns=("epohcs",))


def test_two_runs_are_compared_in_the_given_order(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The columns are the first, the second, and the second minus the first."""
    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    assert ["a", "b"] == list(compare_runs(home, ["a", "b"], order_by=None)["name"])
    assert 0 == run_command_line(["compare", "a", "b"])
    rows = parse_rows(capsys.readouterr().out)

    assert ["a", "b", ""] == rows["name"]
    assert ["0.97", "0.99", "+0.02"] == rows["test/accuracy"]
    assert ["0.1", "0.05", "-0.05"] == rows["test/loss"]
    assert ["mlp", "cnn", ""] == rows["network"]


def test_learning_curves_of_several_runs_are_one_figure(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Each run has its name, and its id if the name is not unique; files are replaced with --force only."""
    experiment = Experiment.open_or_create(home, "learned")
    for name, epochs in {"x": 3, "y": 2}.items():
        for _ in range(2 if name == "y" else 1):
            with experiment.start_run(name, {"relearn.job_type": "train", "dataset": "zoo"}) as run:
                for step in range(1, epochs + 1):
                    values = {"train_loss": 2 / step, "val_loss": 1 / step, "val_accuracy": 0.5}
                    run.log_metrics({f"epoch/{key}": value for key, value in values.items()}, step)
                run.log_metrics({"epoch/train_loss": float("inf")}, epochs)
    runs = experiment.client.search_runs([experiment.id])
    figure = plot_curves(home, [run.info.run_id for run in runs])
    loss_axes = figure.axes[0]
    (x,) = [line for line in loss_axes.lines if line.get_label() == "x"]

    assert [1.0, 0.5, 1 / 3] == list(x.get_ydata())
    labels = {line.get_label() for line in loss_axes.lines if not str(line.get_label()).startswith("_")}
    assert {"x", *(f"{run.info.run_id[:8]} y" for run in runs if run.info.run_name == "y")} == labels
    assert loss_axes.get_ylim()[1] < 3

    monkeypatch.setenv("RELEARN_HOME", str(home.root))
    for name, start in {"runs.png": b"\x89PNG", "runs.svg": b"<?xml"}.items():
        command = ["compare", "--model-name", "learned", "--curves", str(tmp_path / name)]
        assert 0 == run_command_line(command), capsys.readouterr()
        assert (tmp_path / name).read_bytes().startswith(start)
        assert 2 == run_command_line(command)
        assert "add --force to replace a file" in capsys.readouterr().err
    assert 2 == run_command_line(["compare", "--curves", "runs.pdf"])
    assert "got runs.pdf, accepted: a name that ends in .png or .svg" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="none of these runs has ended an epoch"):
        plot_curves(home, [compare_runs(home, ["a"]).index[0]])


def test_runs_are_found_by_version_or_alias(zoo: Zoo) -> None:
    """`zoo@2`, a number, champion and previous are accepted; the table has a column for the version."""
    zoo.promote("1")
    zoo.promote("3")
    queries = ["zoo@2", "1", "zoo@champion", "zoo@previous"]
    assert ["2", "1", "3", "1"] == [resolve_run(zoo.home, query).version for query in queries]
    assert ["animal 1", "animal 3"] == list(
        compare_runs(zoo.home, ["zoo@1", "zoo@champion"], order_by=None)["name"]
    )
    assert ["zoo@1", "zoo@3"] == list(compare_runs(zoo.home, ["1", "3"], order_by=None)["version"])
    with pytest.raises(NotFoundError, match="got 'zoo@9', registered as zoo: 1, 2, 3"):
        resolve_run(zoo.home, "zoo@9")
    with pytest.raises(NotFoundError, match="nothing released as 'park'; released: zoo"):
        resolve_run(zoo.home, "park@1")


@pytest.fixture
def zoo_with_reference(zoo: Zoo) -> Zoo:
    """The zoo with version 1 live; the run `learned` was trained on 10 of its 60 reference images."""
    images = np.random.default_rng(0).integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    reference = ReferenceSet(
        list(map(encode_png, images)),
        np.arange(60) % 3,
        hash_with_salts(images),
        hash_with_salts(images),
        ("ant", "bee", "cow"),
        "the zoo",
    )
    zoo.promote("1", reference.save(zoo.releases))
    experiment = Experiment.open_or_create(zoo.home, "zoo")
    with experiment.start_run("learned", {"relearn.job_type": "train"}) as run:
        registry.log_classifier(run, animal(2), hash_contents(images[:10])[:, None])
    return zoo


def test_paired_test_uses_reference_images_that_neither_was_trained_on(
    zoo_with_reference: Zoo, capsys: Capture
) -> None:
    """Gains and losses are counted image by image."""
    result = run_paired_test(zoo_with_reference.home, ["zoo@1", "learned"])
    reference = ReferenceSet.load(
        zoo_with_reference.releases,
        ReleaseState.from_store(zoo_with_reference.releases).reference_fingerprint,
    )
    images, labels = reference.fit(animal(1).card).images[10:], reference.labels[10:]
    first, second = (animal(seed).predict(images).argmax(1) == labels for seed in (1, 2))

    assert (50, 10, "reference images of zoo") == (result.comparison.images, result.excluded, result.images)
    assert int((second & ~first).sum()) == result.comparison.candidate_only_correct
    assert int((first & ~second).sum()) == result.comparison.champion_only_correct
    assert (first.mean(), second.mean()) == tuple(evaluation.accuracy for evaluation in result.evaluations)

    assert 0 == run_command_line(["compare", "zoo@1", "learned", "--paired"]), capsys.readouterr()
    printed = " ".join(capsys.readouterr().out.split())
    assert f"learned and zoo@1 do not differ significantly: {result.comparison}" in printed
    assert "10 reference images of zoo are excluded: one of the two was trained on them" in printed


def test_paired_test_refuses_a_changed_release(zoo_with_reference: Zoo) -> None:
    """A classifier in the place of a released one is refused, though its card has the right digests."""
    folder = zoo_with_reference.releases.version_folder("1")
    shutil.copytree(zoo_with_reference.folders["3"], folder, dirs_exist_ok=True)
    with pytest.raises(CorruptDataError, match=r"card\.json is not what was saved"):
        run_paired_test(zoo_with_reference.home, ["zoo@1", "learned"])


def test_paired_test_accepts_any_dataset_with_the_same_classes(
    zoo_with_reference: Zoo, tmp_path: Path
) -> None:
    """Its images are resized."""
    images = np.random.default_rng(1).integers(0, 256, (90, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "more.npz", images=images, labels=np.array(["ant", "bee", "cow"])[np.arange(90) % 3])
    result = run_paired_test(
        zoo_with_reference.home, ["1", "learned"], dataset=f"npz:{tmp_path / 'more.npz'}"
    )

    assert 0 == result.excluded
    assert f"test images of npz:{tmp_path / 'more.npz'}" == result.images
    with pytest.raises(DataError, match="--dataset: its classes are 0, 1, 2"):
        run_paired_test(zoo_with_reference.home, ["1", "learned"], dataset="digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1", "--paired"], "--paired: got 1 runs, accepted: two"),
        (["1", "2", "3", "--dataset", "digits"], "--dataset: got 3 runs, accepted: two"),
        (["1", "zoo@1", "--paired"], "--paired: got zoo@1 and zoo@1, which are the same run"),
        (["1", "zoo@8", "--paired"], "version: got 'zoo@8', registered as zoo: 1, 2, 3"),
    ],
)
def test_invalid_paired_test_is_rejected_in_one_line(
    zoo_with_reference: Zoo, arguments: list[str], message: str, capsys: Capture
) -> None:
    """It names what was got and what is accepted."""
    assert 2 == run_command_line(["compare", *arguments])
    assert capsys.readouterr().err.splitlines()[0].endswith(message)


def parse_rows(printed: str) -> dict[str, list[str]]:
    """Return the rows of a printed table by their first cell."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}
