"""Experiments and runs in MLflow: params, metrics, datasets, figures, status.

Metric keys are the same for every network. MLflow's page sorts the charts by prefix: `best/` (the epoch whose
weights are kept), `epoch/`, `robustness/`, `test/`, `time/`, `training/gradients/LAYER/`, at last `system/`.
"""

import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Self

import mlflow
import mlflow.data.numpy_dataset
import pandas as pd
from mlflow import MlflowClient, entities
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset import Dataset
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import SQLAlchemyError
from tenacity import retry, retry_if_exception_message, stop_after_attempt

from relearn.flows.process import environment, provenance
from relearn.flows.tracking.store import connect, connect_existing, mlflow_errors, ui_url
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.files import to_csv
from relearn.model.home import Home
from relearn.model.preparation.extra_images import MergeSummary
from relearn.model.preparation.prepared import IMAGES_FILE, PreparedDataset
from relearn.model.process_identity import identify_process

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOW_RUN_TAG = "relearn.flow_run"  # the flow run that created a run; a retry of the flow run resumes it
PROCESS_TAG = "relearn.process"  # the process that writes a run, as an identity
FAILURE_REASON_TAG = "relearn.failure_reason"  # the error of a failed run
FINGERPRINT_TAG = "fingerprint"  # of the data that a run learns from
EXTRA_IMAGES_TAG = "relearn.extra_images"  # `MergeSummary` of merged images, such as accepted feedback
CANDIDATE_TAG = "relearn.candidate"  # of a retraining: the id of the training that it chose
NUMBER_TAG = "relearn.number"  # of a retraining: 1, 2, … in its experiment
RESULT_TAG = "relearn.result"  # the result of a finished training, so that a retry need not repeat it
# Without this tag MLflow's UI shows prompts and judges.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class Run:
    """An open run, with MLflow's logging methods."""

    id: str
    name: str
    experiment_id: str
    client: MlflowClient

    @property
    def url(self) -> str:
        """URL of the run in MLflow's UI, with its pages for training, not those for language models."""
        base_url = ui_url(mlflow.get_tracking_uri())
        return f"{base_url}/#/experiments/{self.experiment_id}/runs/{self.id}?workflowType=machine_learning"

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log params except None: such a value is chosen by the data or the machine."""
        params = [Param(key, _format_param(value)) for key, value in values.items() if value is not None]
        self.client.log_batch(self.id, params=params)

    def log_metrics(
        self, values: Mapping[str, float], step: int = 0, timestamp_ms: int | None = None
    ) -> None:
        """Log metrics in one call: with SQLite a call takes 5 ms.

        `timestamp_ms` is Unix time, now by default. Values logged twice with the same time and step are
        stored once.
        """
        logged_at_ms = timestamp_ms or int(1000 * time())
        self.client.log_batch(
            self.id, metrics=[Metric(key, float(value), logged_at_ms, step) for key, value in values.items()]
        )

    def get_logged_steps(self, key: str) -> set[int]:
        """Return the steps at which the metric `key` was logged."""
        return {metric.step for metric in self.client.get_metric_history(self.id, key)}

    def set_tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def set_description(self, markdown: str) -> None:
        """Set the text that the page of the run shows first."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_dataset(self, prepared: PreparedDataset) -> None:
        """Log train, validation and test data as inputs of the run, once.

        Their digest is the first 36 characters of the fingerprint.
        """
        inputs = self.client.get_run(self.id).inputs
        if inputs and inputs.dataset_inputs:
            return
        splits = prepared.splits
        contexts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
        for context, split in contexts.items():
            dataset = mlflow.data.numpy_dataset.from_numpy(
                split.images,
                targets=split.labels,
                source=CodeDatasetSource(tags={"source": prepared.uri}),
                name=f"{prepared.name} {context}",
                digest=prepared.fingerprint[:36],
            )
            _log_input(dataset, context, {"fingerprint": prepared.fingerprint})

    def log_data_files(self, prepared: PreparedDataset) -> None:
        """Log the list of images, the description of their source, and a summary of the merged feedback."""
        self.set_tags(extra_images_tag(prepared))
        if prepared.description:
            self.log_text(prepared.description.to_toml(), "dataset.toml")
        self.client.log_artifact(self.id, str(prepared.folder / IMAGES_FILE), "data")

    def rename(self, name: str) -> None:
        self.client.update_run(self.id, name=name)

    def log_figure(self, figure: "Figure", path: str) -> None:
        self.client.log_figure(self.id, figure, path)

    def log_table(self, table: pd.DataFrame, path: str) -> None:
        self.client.log_text(self.id, to_csv(table), path)

    def log_text(self, text: str, path: str) -> None:
        self.client.log_text(self.id, text, path)


@retry(
    retry=retry_if_exception_message(match="(?s).*(UNIQUE constraint|duplicate key)"),
    stop=stop_after_attempt(3),
    reraise=True,
)
def _log_input(dataset: Dataset, context: str, tags: dict[str, str]) -> None:
    """Log a dataset as input of the active run; retry if another run creates the same dataset at once."""
    mlflow.log_input(dataset, context=context, tags=tags)


def check_store(home: Home, name: str) -> None:
    """Raise the errors that `Experiment.open_or_create` would raise, within seconds."""
    with environment.short_mlflow_timeouts():
        client = connect(home)
        with mlflow_errors(client.tracking_uri):
            experiment = client.get_experiment_by_name(name)
    if experiment:
        _check_not_deleted(experiment)


def find_deleted_experiments(client: MlflowClient) -> dict[str, str]:
    """Return the names of deleted experiments, each with the command that restores it."""
    experiments = client.search_experiments(view_type=entities.ViewType.DELETED_ONLY)
    return {experiment.name: _build_restore_command(experiment) for experiment in experiments}


def _check_not_deleted(experiment: entities.Experiment) -> None:
    if experiment.lifecycle_stage == "deleted":
        raise UserInputError(
            f"the experiment {experiment.name!r} was deleted in MLflow: restore it with "
            f"`{_build_restore_command(experiment)}`, or choose another --model-name"
        )


def _build_restore_command(experiment: entities.Experiment) -> str:
    """Return a command that restores an experiment from any folder; it contains no password."""
    mlflow_program = shlex.quote(str(Path(sys.executable).parent / "mlflow"))
    uri = mlflow.get_tracking_uri()
    uri_assignment = "" if "MLFLOW_TRACKING_URI" in os.environ else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
    return f"{uri_assignment}{mlflow_program} experiments restore --experiment-id {experiment.experiment_id}"


@dataclass(frozen=True)
class Experiment:
    """The experiment of one model name."""

    id: str
    name: str
    client: MlflowClient

    @classmethod
    def open_or_create(cls, home: Home, name: str) -> Self:
        """Open the experiment `name`, created if needed.

        Raises `UserInputError` for a tracking URI that MLflow does not accept or a deleted experiment,
        `InfrastructureError` if the store cannot be reached.
        """
        client = connect(home)
        with mlflow_errors(client.tracking_uri):
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                # A server chooses the place of its artifacts, a database alone does not.
                is_remote = client.tracking_uri.startswith("http")
                location = None if is_remote else home.artifacts.as_uri()
                experiment_id = client.create_experiment(
                    name, artifact_location=location, tags=EXPERIMENT_TAGS
                )
                experiment = client.get_experiment(experiment_id)
        _check_not_deleted(experiment)
        return cls(experiment.experiment_id, name, client)

    @contextmanager
    def start_run(
        self,
        name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        resume_run_id: str | None = None,
    ) -> Iterator[Run]:
        """Start a run, or resume the run `resume_run_id`.

        It ends FINISHED, FAILED if an error is raised inside, or KILLED by a signal.
        """
        with mlflow_errors(self.client.tracking_uri):
            process_tag = {PROCESS_TAG: identify_process()}
            if resume_run_id:  # this tag first: a RUNNING run whose process is gone would be closed
                self.client.log_batch(resume_run_id, tags=[RunTag(*tag) for tag in process_tag.items()])
            mlflow_run = mlflow.start_run(
                run_id=resume_run_id,
                experiment_id=self.id,
                run_name=name,
                nested=True,
                parent_run_id=parent_run_id,
                # MLflow's page shows tags in this order.
                tags={**tags, **provenance.git_commit_tag(), **process_tag},
                log_system_metrics=False,  # its end would wait for a store that hangs; see `_end_run`
            )
            run = Run(mlflow_run.info.run_id, name, self.id, self.client)
            if FAILURE_REASON_TAG in mlflow_run.data.tags:
                self.client.delete_tag(run.id, FAILURE_REASON_TAG)
            monitor = SystemMetricsMonitor(run.id, resume_logging=resume_run_id is not None)
            if parent_run_id is None:  # else the parent has the metrics of the same machine
                monitor.start()
            try:
                yield run
            except BaseException as error:
                _end_run(run, monitor, error)
                raise
            monitor.finish()
            mlflow.end_run()

    def get_run(self, run_id: str) -> MlflowRun:
        """Return the run of this id."""
        with mlflow_errors(self.client.tracking_uri):
            return self.client.get_run(run_id)

    def mark_finished(self, run: MlflowRun) -> None:
        """Mark a completed run, whose process was killed before it did so, as FINISHED."""
        if run.info.status != "FINISHED":
            with mlflow_errors(self.client.tracking_uri):
                self.client.set_terminated(run.info.run_id, "FINISHED")

    def find_by_flow_run(self, flow_run_id: str, kind: str, network: str | None = None) -> MlflowRun | None:
        """Return the run that an earlier attempt of the flow run created, None without one.

        `kind` is the job type of that run; `network`, if given, the network it trains.
        """
        filter_string = f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}' and tags.`relearn.job_type` = '{kind}'"
        if network:
            filter_string += f" and params.network = '{network}'"
        with mlflow_errors(self.client.tracking_uri):
            return next(iter(self.client.search_runs([self.id], filter_string, max_results=1)), None)

    def next_number(self, kind: str) -> int:
        """Return the number of the next run of job type `kind`: that of the last one + 1."""
        newest_first, filter_string = ["attributes.start_time DESC"], f"tags.`relearn.job_type` = '{kind}'"
        with mlflow_errors(self.client.tracking_uri):
            runs = self.client.search_runs([self.id], filter_string, order_by=newest_first, max_results=1)
        return 1 + max((int(run.data.tags.get(NUMBER_TAG, 0)) for run in runs), default=0)

    def find_latest(self, kind: str, tags: Mapping[str, str]) -> MlflowRun | None:
        """Return the last finished run of job type `kind` if it has these tags, else None."""
        filter_string = f"tags.`relearn.job_type` = '{kind}' and attributes.status = 'FINISHED'"
        newest_first = ["attributes.start_time DESC"]
        with mlflow_errors(self.client.tracking_uri):
            runs = self.client.search_runs([self.id], filter_string, order_by=newest_first, max_results=1)
        return next((run for run in runs if tags.items() <= run.data.tags.items()), None)


def find_running(client: MlflowClient) -> list[MlflowRun]:
    """Return the RUNNING runs of all experiments."""
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids, "attributes.status = 'RUNNING'"))


def close_run(client: MlflowClient, run: MlflowRun) -> None:
    """Mark a run whose process is gone as KILLED, unless another process has resumed it meanwhile."""
    run_id = run.info.run_id
    if client.get_run(run_id).data.tags.get(PROCESS_TAG) == run.data.tags.get(PROCESS_TAG):
        client.set_terminated(run_id, "KILLED")


def _end_run(run: Run, monitor: SystemMetricsMonitor, error: BaseException) -> None:
    """End a run as FAILED or KILLED, and log `error`; errors of MLflow meanwhile are suppressed.

    A run that then remains RUNNING is closed when the next run starts.
    """
    flush_thread = threading.Thread(target=monitor.finish, daemon=True)
    flush_thread.start()
    flush_thread.join(1)
    has_failed = isinstance(error, Exception)
    with suppress(MlflowException, SQLAlchemyError), environment.short_mlflow_timeouts():
        mlflow.end_run("FAILED" if has_failed else "KILLED")
        if has_failed:
            run.set_tags({FAILURE_REASON_TAG: f"{type(error).__name__}: {error}"[:5000]})


def attach_run(home: Home, run_id: str) -> Run:
    """Return the run of this id, to log more to it."""
    client = connect(home)
    info = client.get_run(run_id).info
    return Run(run_id, info.run_name, info.experiment_id, client)


def extra_images_tag(prepared: PreparedDataset) -> dict[str, str]:
    """Return the summary of merged images, such as accepted feedback, as a tag; {} without any."""
    return {EXTRA_IMAGES_TAG: prepared.extra_images.model_dump_json()} if prepared.extra_images else {}


def get_fingerprint(home: Home, run_id: str) -> str:
    """Return the fingerprint of the data of a run."""
    client = connect_existing(home)
    with mlflow_errors(client.tracking_uri):
        return str(client.get_run(run_id).data.tags.get(FINGERPRINT_TAG, ""))


def get_last_feedback_decision(home: Home, run_id: str) -> int:
    """Return the number of the last feedback decision in the data of a run; 0 if there is none."""
    client = connect_existing(home)
    with mlflow_errors(client.tracking_uri):
        tag_value = client.get_run(run_id).data.tags.get(EXTRA_IMAGES_TAG)
    return MergeSummary.model_validate_json(tag_value).last_decision if tag_value else 0


def resolve_run_id(home: Home, run_ref: str) -> str:
    """Return the id of the run with this id, id prefix (4 or more characters), or name (the newest).

    Raises `NotFoundError` if there is none.
    """
    client = connect_existing(home)
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiment_ids, order_by=["attributes.start_time DESC"], max_results=10_000)
    for matches in (
        [run for run in runs if run.info.run_id == run_ref],
        [run for run in runs if len(run_ref) >= 4 and run.info.run_id.startswith(run_ref)],
        [run for run in runs if run.info.run_name == run_ref],
    ):
        if matches:
            return str(matches[0].info.run_id)
    newest_runs = ", ".join(f"{run.info.run_id[:8]} ({run.info.run_name})" for run in runs[:3])
    raise NotFoundError(
        f"no run {run_ref!r} in MLflow"
        + (f"; the newest are {newest_runs}" if newest_runs else ": it has no runs")
    )


def _format_param(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
