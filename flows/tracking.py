"""Runs in MLflow: what a training was given, how it went, what came of it.

Metric keys are the same for every network; diagnostics stand under `gradients/` and `time/`.
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

from relearn.flows import environment, owner
from relearn.flows.store import connect, look_into, page_of, reached
from relearn.model.additions import Joined
from relearn.model.errors import InputError, NotFoundError
from relearn.model.home import Home
from relearn.model.prepared import Prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOW_RUN = "relearn.flow_run"  # tag: the flow run that made a run; a retry of it goes on with that run
REASON = "relearn.reason"  # tag: what ended a run that failed
JOINED = "relearn.additions"  # tag: what joined the data from elsewhere, such as accepted feedback
OUTCOME = "relearn.outcome"  # tag: what came of a finished training, for a retry that need not repeat it
TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # else the page shows prompts and judges


@dataclass(frozen=True)
class Run:
    """One open run; whatever is logged is kept under its id."""

    id: str
    name: str
    experiment_id: str
    client: MlflowClient

    @property
    def url(self) -> str:
        """The page of the run; without the last part MLflow shows what it has for prompts and judges."""
        page = page_of(mlflow.get_tracking_uri())
        return f"{page}/#/experiments/{self.experiment_id}/runs/{self.id}?workflowType=machine_learning"

    def params(self, values: Mapping[str, Any]) -> None:
        entries = [Param(key, _text(value)) for key, value in values.items()]
        self.client.log_batch(self.id, params=entries)

    def metrics(self, values: Mapping[str, float], step: int = 0, milliseconds: int | None = None) -> None:
        """One call however many there are: against SQLite a call costs 5 ms.

        The same values of the same time (Unix, now by default) and step are kept once.
        """
        at = milliseconds or int(1000 * time())
        self.client.log_batch(
            self.id, metrics=[Metric(key, float(value), at, step) for key, value in values.items()]
        )

    def steps(self, key: str) -> set[int]:
        """The steps at which the metric `key` is there."""
        return {metric.step for metric in self.client.get_metric_history(self.id, key)}

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.id, tags=[RunTag(key, value) for key, value in values.items()])

    def describe(self, markdown: str) -> None:
        """What stands first on the page of the run."""
        self.tags({"mlflow.note.content": markdown})

    def data(self, prepared: Prepared) -> None:
        """The data as a dataset input, once; its digest is the fingerprint, cut to what MLflow holds."""
        inputs = self.client.get_run(self.id).inputs
        if inputs and inputs.dataset_inputs:
            return
        if prepared.additions:
            self.tags({JOINED: prepared.additions.model_dump_json()})
        splits = prepared.splits
        parts = {"training": splits.train, "validation": splits.validation, "test": splits.test}
        for context, split in parts.items():
            dataset = mlflow.data.numpy_dataset.from_numpy(
                split.images,
                targets=split.labels,
                source=CodeDatasetSource(tags={"source": prepared.source}),
                name=f"{prepared.name} {context}",
                digest=prepared.fingerprint[:36],
            )
            _log_input(dataset, context, {"fingerprint": prepared.fingerprint})

    def figure(self, figure: "Figure", path: str) -> None:
        self.client.log_figure(self.id, figure, path)

    def table(self, table: pd.DataFrame, path: str) -> None:
        self.client.log_text(self.id, table.to_csv(index=False), path)

    def text(self, text: str, path: str) -> None:
        self.client.log_text(self.id, text, path)


@retry(
    retry=retry_if_exception_message(match="(?s).*(UNIQUE constraint|duplicate key)"),
    stop=stop_after_attempt(3),
    reraise=True,
)
def _log_input(dataset: Dataset, context: str, tags: dict[str, str]) -> None:
    """Log once more where another run has logged the same data for the first time just now."""
    mlflow.log_input(dataset, context=context, tags=tags)


def check_store(home: Home, name: str) -> None:
    """Raise within seconds what `Experiment.open` would raise of the store or of the experiment `name`."""
    with environment.impatient():
        client = connect(home)
        with reached(client.tracking_uri):
            found = client.get_experiment_by_name(name)
    if found:
        _check_not_deleted(found)


def deleted_experiments(client: MlflowClient) -> dict[str, str]:
    """The names of experiments that were deleted, each with the command that brings it back."""
    found = client.search_experiments(view_type=entities.ViewType.DELETED_ONLY)
    return {experiment.name: _restore_command(experiment) for experiment in found}


def _check_not_deleted(found: entities.Experiment) -> None:
    if found.lifecycle_stage == "deleted":
        raise InputError(
            f"the experiment {found.name!r} was deleted in MLflow: bring it back with "
            f"`{_restore_command(found)}`, or give another --name"
        )


def _restore_command(deleted: entities.Experiment) -> str:
    """A command line that brings an experiment back, from wherever it is typed; it tells no password."""
    mlflow_program = shlex.quote(str(Path(sys.executable).parent / "mlflow"))
    uri = mlflow.get_tracking_uri()
    named = "" if "MLFLOW_TRACKING_URI" in os.environ else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
    return f"{named}{mlflow_program} experiments restore --experiment-id {deleted.experiment_id}"


@dataclass(frozen=True)
class Experiment:
    """All runs under one name."""

    id: str
    name: str
    client: MlflowClient

    @classmethod
    def open(cls, home: Home, name: str) -> Self:
        """Make or find the experiment `name`, and close runs whose process is gone.

        Raises `InputError` for a tracking URI that MLflow does not take or an experiment that was
        deleted, `MachineError` when the store cannot be reached.
        """
        client = connect(home)
        with reached(client.tracking_uri):
            found = client.get_experiment_by_name(name)
            if found is None:
                # A server knows where its files belong, a database alone does not.
                served = client.tracking_uri.startswith("http")
                location = None if served else home.artifacts.as_uri()
                made = client.create_experiment(name, artifact_location=location, tags=TRAINING)
                found = client.get_experiment(made)
        _check_not_deleted(found)
        with reached(client.tracking_uri):
            for lost in lost_runs(client):
                close_lost_run(client, lost)
        return cls(found.experiment_id, name, client)

    @contextmanager
    def run(
        self, name: str, tags: Mapping[str, str], parent: str | None = None, resume: str | None = None
    ) -> Iterator[Run]:
        """Open a run, or the run `resume` again; it ends FINISHED, FAILED by an error, KILLED by a signal."""
        mlflow.set_system_metrics_sampling_interval(1)  # many runs take only seconds
        with reached(self.client.tracking_uri):
            if resume:  # whose it is comes first: one that is RUNNING and nobody's would be closed
                self.client.log_batch(resume, tags=[RunTag(*tag) for tag in owner.tags().items()])
            started = mlflow.start_run(
                run_id=resume,
                experiment_id=self.id,
                run_name=name,
                nested=True,
                parent_run_id=parent,
                tags={**owner.tags(), **owner.revision(), **tags},
                log_system_metrics=False,  # its end would wait for a store that hangs
            )
            run = Run(started.info.run_id, name, self.id, self.client)
            if REASON in started.data.tags:
                self.client.delete_tag(run.id, REASON)
            monitor = SystemMetricsMonitor(run.id, resume_logging=resume is not None)
            monitor.start()
            try:
                yield run
            except BaseException as error:
                _close(run, monitor, error)
                raise
            monitor.finish()
            mlflow.end_run()

    def run_of(self, run_id: str) -> MlflowRun:
        """The run of this id."""
        with reached(self.client.tracking_uri):
            return self.client.get_run(run_id)

    def finish(self, run: MlflowRun) -> None:
        """Let a run be FINISHED whose process was lost just before it said so."""
        if run.info.status != "FINISHED":
            with reached(self.client.tracking_uri):
                self.client.set_terminated(run.info.run_id, "FINISHED")

    def of_flow(self, flow_run: str, kind: str, network: str | None = None) -> MlflowRun | None:
        """The run of this kind that the flow run of this id made, for `network`, when it was tried before."""
        asked = f"tags.`{FLOW_RUN}` = '{flow_run}' and tags.`relearn.kind` = '{kind}'"
        if network:
            asked += f" and params.network = '{network}'"
        with reached(self.client.tracking_uri):
            return next(iter(self.client.search_runs([self.id], asked, max_results=1)), None)

    def latest(self, kind: str, tags: Mapping[str, str]) -> MlflowRun | None:
        """The run of this kind that finished last, where it has these tags."""
        asked = f"tags.`relearn.kind` = '{kind}' and attributes.status = 'FINISHED'"
        newest = ["attributes.start_time DESC"]
        with reached(self.client.tracking_uri):
            found = self.client.search_runs([self.id], asked, order_by=newest, max_results=1)
        return next((run for run in found if tags.items() <= run.data.tags.items()), None)


def close_lost_run(client: MlflowClient, run: MlflowRun) -> None:
    """End it as KILLED."""
    client.set_terminated(run.info.run_id, "KILLED")


def running(client: MlflowClient) -> list[MlflowRun]:
    """Runs of any name that MLflow calls RUNNING."""
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(everywhere, "attributes.status = 'RUNNING'"))


def lost_runs(client: MlflowClient) -> list[MlflowRun]:
    """Those of this machine whose process is gone."""
    return [run for run in running(client) if owner.lost(run.data.tags)]


def _close(run: Run, monitor: SystemMetricsMonitor, error: BaseException) -> None:
    """Tell MLflow what ended a run, if it listens; whoever waits is told that, not what MLflow says to it.

    A run that it has not heard the end of is closed when the next one starts.
    """
    finish = threading.Thread(target=monitor.finish, daemon=True)
    finish.start()
    finish.join(1)
    failed = isinstance(error, Exception)
    with suppress(MlflowException, SQLAlchemyError), environment.impatient():
        mlflow.end_run("FAILED" if failed else "KILLED")
        if failed:
            run.tags({REASON: f"{type(error).__name__}: {error}"[:5000]})


def reopen(home: Home, run_id: str) -> Run:
    """The run of this id, to log more under it."""
    client = connect(home)
    info = client.get_run(run_id).info
    return Run(run_id, info.run_name, info.experiment_id, client)


def joined_until(home: Home, run_id: str) -> int:
    """Up to which decision feedback joined the data of a run; 0 where there was none yet."""
    client = look_into(home)
    with reached(client.tracking_uri):
        told = client.get_run(run_id).data.tags.get(JOINED)
    return Joined.model_validate_json(told).until if told else 0


def find(home: Home, run: str) -> str:
    """The id of the run called `run`: its id, the beginning of it, or its name (the newest of that name)."""
    client = look_into(home)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=10_000)
    for matches in (
        [found for found in runs if found.info.run_id == run],
        [found for found in runs if len(run) >= 4 and found.info.run_id.startswith(run)],
        [found for found in runs if found.info.run_name == run],
    ):
        if matches:
            return str(matches[0].info.run_id)
    newest = ", ".join(f"{found.info.run_id[:8]} ({found.info.run_name})" for found in runs[:3])
    raise NotFoundError(
        f"no run {run!r} in MLflow" + (f"; the newest are {newest}" if newest else ": it has none")
    )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
