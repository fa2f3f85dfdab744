"""Experiments and runs in MLflow, and errors of its store."""

import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run as MlflowRun

from relearn.flows.process.environment import redact_password
from relearn.flows.tracking.runs import PROCESS_TAG, Experiment, attach_run, resolve_run_id
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.errors import InfrastructureError, NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.model.preparation.prepared import prepare_dataset
from relearn.model.process_identity import identify_process


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store for this file: to create its database takes 3 s."""
    root = tmp_path_factory.mktemp("tracking")
    return Home(root, root / "data")


@pytest.fixture
def experiment(home: Home) -> Experiment:
    return Experiment.open_or_create(home, "zoo")


def read_run(experiment: Experiment, run_id: str) -> MlflowRun:
    return experiment.client.get_run(run_id)


def test_metrics_of_the_machine_are_logged_once(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent has them, at an interval that a variable sets; its children would have the same."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with experiment.start_run("parent", {}) as parent, experiment.start_run("child", {}, parent.id) as child:
        time.sleep(1.6)
    metrics = {run.id: set(read_run(experiment, run.id).data.metrics) for run in (parent, child)}
    assert "system/cpu_utilization_percentage" in metrics[parent.id]
    assert set() == metrics[child.id]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (UserInputError("a reason"), "FAILED"),
        (RuntimeError("a bug"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
    ids=lambda value: str(value or "no error"),
)
def test_status_of_a_run_says_how_it_ended(
    experiment: Experiment, error: BaseException | None, status: str
) -> None:
    """Without error it is FINISHED, with an error FAILED with its reason, by a signal KILLED."""

    def work() -> None:
        with experiment.start_run("a run", {}) as run:
            runs.append(run.id)
            if error:
                raise error

    runs: list[str] = []
    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    mlflow_run = read_run(experiment, runs[0])
    assert status == mlflow_run.info.status
    reason = f"{type(error).__name__}: {error}" if status == "FAILED" else None
    assert reason == mlflow_run.data.tags.get("relearn.failure_reason")


def test_error_of_a_run_is_raised_although_mlflow_fails(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own error is suppressed. No run stays active in this process; the run is closed later."""
    database = Path(experiment.client.tracking_uri.removeprefix("sqlite:///"))
    content = database.read_bytes()

    def work() -> None:
        with experiment.start_run("a run", {}) as run:
            nonlocal content, run_id
            run_id, content = run.id, database.read_bytes()
            database.write_bytes(b"no database" * 1000)
            raise UserInputError("the first")

    run_id = ""
    with pytest.raises(UserInputError, match="the first"):
        work()
    database.write_bytes(content)
    assert mlflow.active_run() is None
    assert "RUNNING" == read_run(experiment, run_id).info.status
    experiment.client.set_terminated(run_id, "KILLED")


def test_resumed_run_loses_its_failure_reason(experiment: Experiment) -> None:
    """Only a failed run has the tag."""
    with pytest.raises(UserInputError), experiment.start_run("a run", {}) as run:
        raise UserInputError("a reason")
    assert "UserInputError: a reason" == read_run(experiment, run.id).data.tags["relearn.failure_reason"]
    with experiment.start_run("a run", {}, resume_run_id=run.id):
        pass
    assert "FINISHED" == read_run(experiment, run.id).info.status
    assert "relearn.failure_reason" not in read_run(experiment, run.id).data.tags


def test_resumed_run_gets_its_process_tag_before_it_starts(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another process would see it RUNNING with the tag of a dead process, and close it."""
    with pytest.raises(UserInputError), experiment.start_run("a run", {}) as run:
        raise UserInputError("a reason")
    experiment.client.set_tag(run.id, PROCESS_TAG, "1@0")
    start_run = mlflow.start_run

    def check_tags_and_start(**arguments: Any) -> mlflow.ActiveRun:
        tags = read_run(experiment, run.id).data.tags
        has_process_tag.append(identify_process() == tags[PROCESS_TAG])
        return start_run(**arguments)

    has_process_tag: list[bool] = []
    monkeypatch.setattr(mlflow, "start_run", check_tags_and_start)
    with experiment.start_run("a run", {}, resume_run_id=run.id):
        pass
    assert [True] == has_process_tag


def test_logged_values_are_stored(experiment: Experiment, home: Home) -> None:
    """Params are text, without None; metrics have steps, datasets the fingerprint."""
    prepared = prepare_dataset(TrainConfig(dataset="digits"), home)
    with (
        experiment.start_run("retrain", {}) as parent,
        experiment.start_run("mlp", {"relearn.job_type": "train"}, parent.id) as run,
    ):
        run.log_params({"hidden_sizes": (3, 4), "size": None})
        for step in (1, 2):
            run.log_metrics({"val_loss": 1 / step, "val_accuracy": 0.5}, step)
        run.log_dataset(prepared)
        run.set_description("**well**")
    mlflow_run = read_run(experiment, run.id)
    assert {"hidden_sizes": "3,4"} == mlflow_run.data.params
    history = experiment.client.get_metric_history(run.id, "val_loss")
    assert [(1, 1.0), (2, 0.5)] == [(metric.step, metric.value) for metric in history]
    assert (parent.id, "**well**") == (
        mlflow_run.data.tags["mlflow.parentRunId"], mlflow_run.data.tags["mlflow.note.content"]
    )  # fmt: skip
    inputs = {entry.dataset.name: entry for entry in mlflow_run.inputs.dataset_inputs}
    assert {"digits training", "digits validation", "digits test"} == set(inputs)
    assert {prepared.fingerprint[:36]} == {entry.dataset.digest for entry in inputs.values()}
    assert prepared.fingerprint in {tag.value for tag in inputs["digits training"].tags}


def test_attached_run_logs_to_the_same_id(experiment: Experiment, home: Home) -> None:
    """Metrics can be logged later, from another object."""
    with experiment.start_run("first", {}) as run:
        attach_run(home, run.id).log_metrics({"late": 1.0})
    assert {"late": 1.0} == {"late": read_run(experiment, run.id).data.metrics["late"]}


def test_run_is_resolved_by_id_prefix_or_name(experiment: Experiment, home: Home) -> None:
    """A prefix has four or more characters; of several runs with a name the newest is meant."""
    ids = []
    for _ in range(2):
        with experiment.start_run("twin", {}) as run:
            ids.append(run.id)
        time.sleep(0.01)
    assert [ids[0], ids[0], ids[1]] == [
        resolve_run_id(home, ids[0]),
        resolve_run_id(home, ids[0][:12]),
        resolve_run_id(home, "twin"),
    ]
    with pytest.raises(NotFoundError, match=f"no run 'none' in MLflow; the newest are {ids[1][:8]}"):
        resolve_run_id(home, "none")


def test_deleted_experiment_is_rejected_with_the_restore_command(home: Home) -> None:
    """The command has the experiment's id."""
    deleted = Experiment.open_or_create(home, "deleted")
    deleted.client.delete_experiment(deleted.id)
    with pytest.raises(UserInputError, match=f"mlflow experiments restore --experiment-id {deleted.id}"):
        Experiment.open_or_create(home, "deleted")


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "oracle://db", "http://", "sqlite://", "postgresql://["]
)
def test_unsupported_tracking_uri_is_rejected(uri: str, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    """One line lists the accepted kinds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserInputError, match=r"MLFLOW_TRACKING_URI: got .*, accepted: sqlite:"):
        connect(home)


def test_unreachable_server_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    """It raises `InfrastructureError` soon."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(
        InfrastructureError, match=r"^MLflow at http://ann:…@127.0.0.1:9 cannot be used: "
    ) as caught:
        connect(home)
    assert "s3cret" not in str(caught.value)


def test_file_that_is_no_database_is_reported_and_kept(tmp_path: Path) -> None:
    """A damaged store is not replaced by an empty one."""
    store = tmp_path / "mlflow.db"
    store.write_bytes(b"this is not a database" * 100)
    with pytest.raises(InfrastructureError, match=r"cannot be used: .*not a database"):
        connect(Home(tmp_path, tmp_path))
    assert store.read_bytes().startswith(b"this is not")


@pytest.mark.parametrize(
    ("uri", "redacted"),
    [
        ("postgresql://ann:p@ss@db/x", "postgresql://ann:…@db/x"),
        ("ann:secret@proxy:3128", "ann:…@proxy:3128"),
        ("https://token@db/x", "https://…@db/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/ann@b.db", "sqlite:////a/ann@b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_password_is_redacted(uri: str, redacted: str) -> None:
    """The rest of the URI is unchanged."""
    assert redacted == redact_password(uri)
