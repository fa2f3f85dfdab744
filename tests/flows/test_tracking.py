"""Runs are kept under their name, with what they were given, and end as they ended."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run as MlflowRun

from relearn.flows import process_identity
from relearn.flows.environment import redact_password
from relearn.flows.tracking.runs import Experiment, attach_run, resolve_run_id
from relearn.flows.tracking.store import connect
from relearn.model.config import TrainConfig
from relearn.model.data.prepared import prepare_dataset
from relearn.model.errors import InfrastructureError, NotFoundError, UserInputError
from relearn.model.home import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One store for this file: to make its database takes 3 s."""
    root = tmp_path_factory.mktemp("tracked")
    return Home(root, root / "data")


@pytest.fixture
def experiment(home: Home) -> Experiment:
    return Experiment.open_or_create(home, "zoo")


def stored(experiment: Experiment, run_id: str) -> MlflowRun:
    return experiment.client.get_run(run_id)


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
def test_a_run_ends_as_it_ended(experiment: Experiment, error: BaseException | None, status: str) -> None:
    """No error finishes it, an error fails it with its reason, a signal kills it; none stays open."""

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
    ended = stored(experiment, runs[0])
    assert status == ended.info.status
    reason = f"{type(error).__name__}: {error}" if status == "FAILED" else None
    assert reason == ended.data.tags.get("relearn.failure_reason")


def test_what_ended_a_run_is_told_though_mlflow_is_away(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what MLflow says to it; nothing of the run is left open in this process, and it is closed later."""
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
    assert "RUNNING" == stored(experiment, run_id).info.status
    experiment.client.set_terminated(run_id, "KILLED")


def test_a_run_that_goes_on_forgets_why_it_failed(experiment: Experiment) -> None:
    """A reason stands with what failed only."""
    with pytest.raises(UserInputError), experiment.start_run("a run", {}) as run:
        raise UserInputError("a reason")
    assert "UserInputError: a reason" == stored(experiment, run.id).data.tags["relearn.failure_reason"]
    with experiment.start_run("a run", {}, resume_run_id=run.id):
        pass
    assert "FINISHED" == stored(experiment, run.id).info.status
    assert "relearn.failure_reason" not in stored(experiment, run.id).data.tags


def test_a_run_that_goes_on_is_somebodys_before_it_runs(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who closes runs whose process is gone would find it RUNNING, and the process before this one."""
    with pytest.raises(UserInputError), experiment.start_run("a run", {}) as run:
        raise UserInputError("a reason")
    experiment.client.set_tag(run.id, process_identity.PROCESS_TAG, "1@0")
    start = mlflow.start_run

    def started(**asked: Any) -> mlflow.ActiveRun:
        tags = stored(experiment, run.id).data.tags
        seen.append(process_identity.process_tags().items() <= tags.items())
        return start(**asked)

    seen: list[bool] = []
    monkeypatch.setattr(mlflow, "start_run", started)
    with experiment.start_run("a run", {}, resume_run_id=run.id):
        pass
    assert [True] == seen


def test_a_run_keeps_what_it_is_given(experiment: Experiment, home: Home) -> None:
    """Params as text, metrics by step, the data with its fingerprint, the description, the parent."""
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
    kept = stored(experiment, run.id)
    assert {"hidden_sizes": "3,4", "size": "None"} == kept.data.params
    history = experiment.client.get_metric_history(run.id, "val_loss")
    assert [(1, 1.0), (2, 0.5)] == [(one.step, one.value) for one in history]
    assert (parent.id, "**well**") == (
        kept.data.tags["mlflow.parentRunId"], kept.data.tags["mlflow.note.content"]
    )  # fmt: skip
    inputs = {one.dataset.name: one for one in kept.inputs.dataset_inputs}
    assert {"digits training", "digits validation", "digits test"} == set(inputs)
    assert {prepared.fingerprint[:36]} == {one.dataset.digest for one in inputs.values()}
    assert prepared.fingerprint in {tag.value for tag in inputs["digits training"].tags}


def test_a_run_can_be_added_to_later(experiment: Experiment, home: Home) -> None:
    """What is logged through a reopened run stands under the same id."""
    with experiment.start_run("first", {}) as run:
        attach_run(home, run.id).log_metrics({"late": 1.0})
    assert {"late": 1.0} == {"late": stored(experiment, run.id).data.metrics["late"]}


def test_lost_runs_are_closed_and_living_ones_are_not(experiment: Experiment, home: Home) -> None:
    """The next start ends as KILLED what a dead process left open, and nothing else."""
    code = (
        "import os, sys\n"
        "from relearn.flows.tracking.runs import Experiment\n"
        "from relearn.model.home import Home\n"
        "from pathlib import Path\n"
        "root = Path(sys.argv[1])\n"
        "with Experiment.open(Home(root, root), 'zoo').start_run('lost', {}) as run:\n"
        "    print(run.id, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, home.root], capture_output=True, text=True, check=False
    )
    assert -9 == done.returncode
    lost = done.stdout.strip()
    assert "RUNNING" == stored(experiment, lost).info.status
    with experiment.start_run("living", {}) as living:
        Experiment.open_or_create(home, "zoo")
        assert ("KILLED", "RUNNING") == (
            stored(experiment, lost).info.status, stored(experiment, living.id).info.status
        )  # fmt: skip


def test_a_run_is_found_by_id_beginning_or_name(experiment: Experiment, home: Home) -> None:
    """The id, four or more of its first characters, or the name, of which the newest counts."""
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


def test_a_deleted_experiment_says_how_to_get_it_back(home: Home) -> None:
    """A name whose experiment was deleted is refused with the command that restores it."""
    gone = Experiment.open_or_create(home, "gone")
    gone.client.delete_experiment(gone.id)
    with pytest.raises(UserInputError, match=f"mlflow experiments restore --experiment-id {gone.id}"):
        Experiment.open_or_create(home, "gone")


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "oracle://db", "http://", "sqlite://", "postgresql://["]
)
def test_a_store_of_another_kind_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    """A tracking URI that MLflow does not take is one line that lists what it does."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserInputError, match=r"MLFLOW_TRACKING_URI: got .*, accepted: sqlite:"):
        connect(home)


def test_a_server_that_is_away_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    """What does not answer is a `MachineError` soon, and no password is in what it says."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:s3cret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with pytest.raises(
        InfrastructureError, match=r"^MLflow at http://ann:…@127.0.0.1:9 cannot be used: "
    ) as caught:
        connect(home)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_database_is_kept_and_said(tmp_path: Path) -> None:
    """A damaged store is named, and not made anew."""
    store = tmp_path / "mlflow.db"
    store.write_bytes(b"this is not a database" * 100)
    with pytest.raises(InfrastructureError, match=r"cannot be used: .*not a database"):
        connect(Home(tmp_path, tmp_path))
    assert store.read_bytes().startswith(b"this is not")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ann:p@ss@db/x", "postgresql://ann:…@db/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_passwords_are_left_out(uri: str, shown: str) -> None:
    """A URI is shown as it is, but for its password."""
    assert shown == redact_password(uri)
