"""The retrain flow: its output, its runs in MLflow and Prefect, its release."""

import json
import re
import sqlite3

import httpx
import pytest
from markdown_it import MarkdownIt
from mlflow import MlflowClient

from relearn.flows.results import TrainResult
from relearn.flows.retrain import retrain, select_best
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.errors import ConfigError
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset
from relearn.serving.releases.store import get_current_release


@pytest.fixture(scope="module")
def client(ran) -> MlflowClient:
    return connect(ran.home)


@pytest.fixture(scope="module")
def flow_run(prefect_page: str) -> dict[str, object]:
    """The flow run of `ran` from Prefect's server."""
    query = {
        "flows": {"name": {"any_": ["retrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},  # no scheduled ones
    }
    (run,) = httpx.post(f"{prefect_page}/api/flow_runs/filter", json=query).json()
    return run


def make_result(
    network: str, val_loss: float, val_accuracy: float, val_balanced_accuracy: float = 0.5
) -> TrainResult:
    return TrainResult(
        run_id=network,
        url="",
        network=network,
        parameter_count=1,
        summary="best epoch 14 of 15: all epochs done",
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        val_balanced_accuracy=val_balanced_accuracy,
        metrics={"accuracy": 1 - val_accuracy},
        warnings=(),
        training_seconds=1.0,
        images_per_second=1.0,
    )


def test_best_network_is_selected_by_the_monitored_metric() -> None:
    """The lower loss or the higher accuracy on validation wins; test metrics do not count."""
    low_loss, high_accuracy = make_result("low_loss", 0.1, 0.97), make_result("high_accuracy", 0.2, 0.98)
    balanced = make_result("balanced", 0.3, 0.96, 0.95)
    results = [low_loss, high_accuracy, balanced]

    assert low_loss == select_best(results, "val_loss")
    assert high_accuracy == select_best(results, "val_accuracy")
    assert balanced == select_best(results, "val_balanced_accuracy")


def test_output_describes_each_step_in_order(ran) -> None:
    """Lines name what is trained, the data with its splits, and every training with its best epoch."""
    start, networks, data, mlp, cnn, *_ = ran.output.splitlines()
    assert "Training networks on digits" == start
    assert "Networks: mlp, cnn (--network NAME … trains others)" == networks
    sizes = re.fullmatch(
        r"digits: ([\d,]+) for train, (\d+) for validation, (\d+) for test; 10 classes; gray images of "
        r"28×28 pixels",
        data,
    )
    assert 1797 == sum(int(size.replace(",", "")) for size in sizes.groups())
    for network, line in (("mlp", mlp), ("cnn", cnn)):
        assert re.fullmatch(
            rf"{network}: \d+\.\d\d% on validation, best epoch [123] of 3: .+, \d+\.\d s", line
        )


def test_output_has_metrics_and_stage_times(ran) -> None:
    """It shows both networks, a prediction of the real server and the seconds of each stage."""
    printed = " ".join(ran.output.split())
    assert "" == ran.errors
    for network, parameters in (("mlp", "407,050"), ("cnn", "542,230")):
        (row,) = [line for line in ran.output.splitlines() if line.startswith(f"│ {network} ")]
        assert parameters in row
        validation, test, low, high = map(float, re.findall(r"\d+\.\d+", row))
        assert 50 < low <= test <= high <= 100
        assert 50 < validation <= 100
    assert re.search(
        r"The server of version 1 classified an image of '\d' as '\d' \(probability [\d.]+%\)", printed
    )
    assert "PROMOTE version 1 is live: the first release of this model" in printed
    stages = re.search(r"([\d.]+) s in all: (.*?) The ", printed)
    seconds = dict(stage.rsplit(" ", 1) for stage in stages[2].split(", "))
    assert ["data", "eda", "training mlp", "training cnn", "gate", "registering"] == list(seconds)[:6]
    assert float(stages[1]) == pytest.approx(sum(map(float, seconds.values())), abs=1)


def test_mlflow_has_a_parent_run_and_a_child_for_each_network(client: MlflowClient) -> None:
    """All of them are FINISHED."""
    experiment = client.get_experiment_by_name("digits")
    runs = {run.info.run_name.split()[0]: run for run in client.search_runs([experiment.experiment_id])}

    assert {"digits", "mlp", "cnn"} == set(runs)
    assert {"FINISHED"} == {run.info.status for run in runs.values()}
    parent = runs["digits"].info.run_id
    assert [parent, parent] == [runs[name].data.tags["mlflow.parentRunId"] for name in ("mlp", "cnn")]
    assert "time/packaging seconds" in runs["digits"].data.metrics
    files = {file.path for file in client.list_artifacts(parent, "data")}
    assert {"data/images.png", "data/labels.png", "data/pixels.png", "data/splits.csv"} <= files


def test_parent_run_says_what_came_of_it(client: MlflowClient) -> None:
    """Its name, inputs, settings and metrics are those of the network that was released."""
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["relearn.job_type"] == "retrain"]
    champion = client.get_run(client.get_model_version_by_alias("digits", "champion").run_id)
    accuracy = champion.data.metrics["test/accuracy"]

    name = f"digits #1 · {champion.data.params['network']} · {accuracy:.1%} · released"
    assert name == parent.info.run_name
    shared = {key for key in champion.data.metrics if key.startswith("test/")} - {"test/generalization_gap"}
    for key in shared | {"best/val_loss", "best/val_accuracy"}:
        assert champion.data.metrics[key] == parent.data.metrics[key]
    assert champion.inputs.dataset_inputs == parent.inputs.dataset_inputs
    assert ("mlp cnn", "digits", "more_data") == tuple(
        parent.data.params[key] for key in ("networks", "dataset", "promotion/promotion_rule")
    )
    assert ("promote", "1") == (parent.data.tags["relearn.gate_decision"], parent.data.tags["version"])


def test_best_network_is_version_1_champion_and_live(ran, client: MlflowClient) -> None:
    """Alias in MLflow, ledger and Bento name the same classifier."""
    name, release = get_current_release(ran.home)
    champion = client.get_model_version_by_alias("digits", "champion")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    losses = {
        run.info.run_id: min(
            metric.value for metric in client.get_metric_history(run.info.run_id, "epoch/val_loss")
        )
        for run in runs
        if run.data.tags["relearn.job_type"] == "train"
    }

    assert ("digits", "1", "digits:1") == (name, release.version, release.bento)
    assert min(losses, key=losses.__getitem__) == release.run_id == champion.run_id
    assert "1" == str(champion.version)
    cards = [
        json.loads((folder / "card.json").read_bytes())
        for folder in (
            ran.home.releases_dir("digits") / "1",
            ran.home.bentoml / "models" / "digits" / "1",
        )
    ]
    assert cards[0] == cards[1]


def test_prefect_has_the_flow_run_and_its_tasks(flow_run: dict, prefect_page: str) -> None:
    """The flow run is COMPLETED, and each stage is a task with a descriptive name."""
    query = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    tasks = httpx.post(f"{prefect_page}/api/task_runs/filter", json=query).json()

    assert re.fullmatch(r"retrain on digits · (mlp|cnn) · \d\d\.\d% · released", flow_run["name"])
    assert "COMPLETED" == flow_run["state"]["type"]
    assert {
        "load-data",
        "log-eda",
        "train-mlp",
        "train-cnn",
    } <= {task["name"] for task in tasks}
    assert {"COMPLETED"} == {task["state"]["type"] for task in tasks}


def test_prefect_has_the_report(flow_run: dict, prefect_page: str, client: MlflowClient) -> None:
    """It is a Markdown artifact with the result first and a link to each run; MLflow has the same."""
    query = {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}}
    (artifact,) = httpx.post(f"{prefect_page}/api/artifacts/filter", json=query).json()
    html = MarkdownIt("commonmark").enable("table").render(artifact["data"])

    assert ("retraining", "markdown") == (artifact["key"], artifact["type"])
    assert html.startswith("<h1>digits: ")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    for run in runs:
        if run.data.tags["relearn.job_type"] == "train":
            assert f'/runs/{run.info.run_id}?workflowType=machine_learning"' in html
        else:
            assert artifact["data"] == run.data.tags["mlflow.note.content"]


def test_data_is_prepared_once(ran) -> None:
    """Other training settings reuse the prepared files."""
    (folder,) = ran.home.dataset_cache.glob("digits-*")
    modification_times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    prepared = prepare_dataset(TrainConfig(dataset="digits", epochs=99, network="cnn"), ran.home)

    assert (folder, None) == (prepared.folder, prepared.rebuild_reason)
    assert modification_times == {file: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_home_has_no_partial_files(ran) -> None:
    """It has no temporary file, and its databases pass the integrity check."""
    assert [] == [path for path in ran.home.root.rglob("*.tmp") if "prefect" not in path.parts]
    for file in (ran.home.root / "mlflow.db", ran.home.prefect / "prefect.db"):
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            assert [("ok",)] == database.execute("pragma integrity_check").fetchall()
        database.close()


def test_flow_rejects_an_unknown_network_before_any_training(copied: Home) -> None:
    """No run is created."""
    with pytest.raises(ConfigError, match="network: got 'nope'"):
        retrain.fn(TrainConfig(dataset="digits"), ("mlp", "nope"))
    assert 3 == len(connect(copied).search_runs(["1"]))
