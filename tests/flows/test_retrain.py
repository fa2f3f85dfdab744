"""The main job: what it says, what it leaves in MLflow and Prefect, and what it makes live."""

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
from relearn.model.data.prepared import prepare_dataset
from relearn.model.errors import ConfigError
from relearn.model.home import Home
from relearn.serving.releases.store import get_current_release


@pytest.fixture(scope="module")
def client(ran) -> MlflowClient:
    return connect(ran.home)


@pytest.fixture(scope="module")
def flow_run(prefect_page: str) -> dict[str, object]:
    """The run of the flow as Prefect's server tells it, read from the database that `ran` left."""
    asked = {
        "flows": {"name": {"any_": ["retrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},  # not what is planned
    }
    (run,) = httpx.post(f"{prefect_page}/api/flow_runs/filter", json=asked).json()
    return run


def trained(network: str, val_loss: float, val_accuracy: float) -> TrainResult:
    return TrainResult(
        run_id=network,
        url="",
        network=network,
        parameter_count=1,
        epochs=1,
        best_epoch=1,
        stop_reason="",
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        metrics={"accuracy": 1 - val_accuracy},
        warnings=(),
        training_seconds=1.0,
        images_per_second=1.0,
    )


def test_the_best_is_chosen_by_what_training_monitored() -> None:
    """The smaller loss or the greater accuracy, on validation; the test images have no say."""
    careful, bold = trained("careful", 0.1, 0.97), trained("bold", 0.2, 0.98)

    assert careful == select_best([bold, careful], "val_loss")
    assert bold == select_best([careful, bold], "val_accuracy")


def test_a_run_says_how_good_it_is_and_where_the_time_went(ran) -> None:
    """Both networks with their figures, the answer of the real server, the seconds of each stage."""
    said = " ".join(ran.output.split())
    assert "" == ran.errors
    for network, parameters in (("mlp", "407,050"), ("cnn", "542,230")):
        (row,) = [line for line in ran.output.splitlines() if line.startswith(f"│ {network} ")]
        assert parameters in row
        assert all(0.5 < float(share) / 100 <= 1 for share in re.findall(r"([\d.]+)%", row))
    assert re.search(r"The real server of version 1 was sent an image of '\d' and said '\d' with ", said)
    assert "PROMOTE version 1 is live: the first release under this name" in said
    stages = re.search(r"([\d.]+) s in all: (.*?) The ", said)
    named = dict(part.rsplit(" ", 1) for part in stages[2].split(", "))
    assert ["data", "eda", "training mlp", "training cnn", "gate", "registering"] == list(named)[:6]
    assert float(stages[1]) == pytest.approx(sum(map(float, named.values())), abs=1)


def test_mlflow_has_a_parent_and_its_trainings(client: MlflowClient) -> None:
    """One run for the whole, one below it for each network; all of them finished."""
    experiment = client.get_experiment_by_name("digits")
    runs = {run.info.run_name.split()[0]: run for run in client.search_runs([experiment.experiment_id])}

    assert {"retrain", "mlp", "cnn"} == set(runs)
    assert {"FINISHED"} == {run.info.status for run in runs.values()}
    parent = runs["retrain"].info.run_id
    assert [parent, parent] == [runs[name].data.tags["mlflow.parentRunId"] for name in ("mlp", "cnn")]
    assert "time/packaging seconds" in runs["retrain"].data.metrics
    looked = {file.path for file in client.list_artifacts(parent, "data")}
    assert {"data/images.png", "data/labels.png", "data/pixels.png", "data/splits.csv"} <= looked


def test_the_best_network_is_version_1_champion_and_live(ran, client: MlflowClient) -> None:
    """The alias in MLflow, the pointer that is served and the Bento mean the same classifier."""
    name, release = get_current_release(ran.home)
    champion = client.get_model_version_by_alias("digits", "champion")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    losses = {
        run.info.run_id: min(one.value for one in client.get_metric_history(run.info.run_id, "val_loss"))
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


def test_prefect_has_the_story_and_its_stages(flow_run: dict, prefect_page: str) -> None:
    """The flow is completed, and each stage is a task with a name that says what it did to what."""
    asked = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    tasks = httpx.post(f"{prefect_page}/api/task_runs/filter", json=asked).json()

    assert ("retrain on digits", "COMPLETED") == (flow_run["name"], flow_run["state"]["type"])
    assert {
        "load-data",
        "log-eda",
        "train-mlp",
        "train-cnn",
    } <= {task["name"] for task in tasks}
    assert {"COMPLETED"} == {task["state"]["type"] for task in tasks}


def test_prefect_carries_the_report(flow_run: dict, prefect_page: str, client: MlflowClient) -> None:
    """A Markdown artifact with the result first and a link to each run; the same in MLflow."""
    asked = {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}}
    (artifact,) = httpx.post(f"{prefect_page}/api/artifacts/filter", json=asked).json()
    page = MarkdownIt("commonmark").enable("table").render(artifact["data"])

    assert ("retraining", "markdown") == (artifact["key"], artifact["type"])
    assert page.startswith("<h1>digits: ")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    for run in runs:
        if run.data.tags["relearn.job_type"] == "train":
            assert f'/runs/{run.info.run_id}?workflowType=machine_learning"' in page
        else:
            assert artifact["data"] == run.data.tags["mlflow.note.content"]


def test_data_is_prepared_once(ran) -> None:
    """The same data is found prepared, file for file; other shares are prepared beside it."""
    (folder,) = ran.home.dataset_cache.glob("digits-*")
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = prepare_dataset(TrainConfig(dataset="digits", epochs=99, network="cnn"), ran.home)

    assert (folder, None) == (again.folder, again.rebuild_reason)
    assert before == {file: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_nothing_half_written_is_left(ran) -> None:
    """No temporary file in the home, and databases that are in order."""
    assert [] == [path for path in ran.home.root.rglob("*.tmp") if "prefect" not in path.parts]
    for file in (ran.home.root / "mlflow.db", ran.home.prefect / "prefect.db"):
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
            assert [("ok",)] == database.execute("pragma integrity_check").fetchall()
        database.close()


def test_a_flow_refuses_before_it_begins(copied: Home) -> None:
    """A deployment that names a network that is not there is told so before any training."""
    with pytest.raises(ConfigError, match="network: got 'nope'"):
        retrain.fn(TrainConfig(dataset="digits"), ("mlp", "nope"))
    assert 3 == len(connect(copied).search_runs(["1"]))
