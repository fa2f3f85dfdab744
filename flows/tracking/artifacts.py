"""Files of runs in MLflow: runs grouped with their child runs, size and deletion of their files."""

import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from relearn.model.errors import CorruptDataError

PRUNED_TAG = "relearn.pruned"  # URIs of the deleted files; a later prune tries to delete them again
JOB_TYPE_TAG = "relearn.job_type"  # retrain, train or evaluate
PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class RunTree:
    """A run of type `job_type` (retrain, train or evaluate) and its child runs; the parent is first."""

    job_type: str
    run_name: str
    runs: tuple[Run, ...]

    @classmethod
    def from_root(cls, root: Run, all_runs: list[Run]) -> Self:
        children = [run for run in all_runs if run.data.tags.get(PARENT_TAG) == root.info.run_id]
        return cls(root.data.tags[JOB_TYPE_TAG], str(root.info.run_name), (root, *children))

    @property
    def run_ids(self) -> set[str]:
        return {run.info.run_id for run in self.runs}

    @property
    def fingerprints(self) -> set[str]:
        """The data that its runs learned from."""
        return {run.data.tags.get("fingerprint", "") for run in self.runs}

    @property
    def is_running(self) -> bool:
        return any(run.info.status == "RUNNING" for run in self.runs)


def list_experiment_names(client: MlflowClient) -> list[str]:
    """Return the names of all experiments, including those of other programs."""
    return [experiment.name for experiment in client.search_experiments()]


def list_run_trees(client: MlflowClient, experiment_name: str) -> list[RunTree]:
    """Return Relearn's runs in an experiment, grouped with their child runs, newest first."""
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return []
    runs: list[Run] = []
    page_token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            order_by=["attributes.start_time DESC"],
            page_token=page_token,
        )
        runs += page
        page_token = page.token
        if not page_token:
            break
    run_ids = {run.info.run_id for run in runs}
    roots = [
        run for run in runs if JOB_TYPE_TAG in run.data.tags and run.data.tags.get(PARENT_TAG) not in run_ids
    ]
    return [RunTree.from_root(root, runs) for root in roots]


def list_artifact_uris(client: MlflowClient, run: Run) -> list[str]:
    """Return the URIs of a run's files: its artifacts and its logged models."""
    if PRUNED_TAG in run.data.tags:
        return run.data.tags[PRUNED_TAG].split()
    return [run.info.artifact_uri, *(model.artifact_location for model in _list_logged_models(client, run))]


def load_artifact(run_id: str, path: str) -> str | None:
    """Return the text of a file of a run; None if it has logged none at `path`, or it is gone."""
    try:
        return str(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}"))
    except (MlflowException, OSError):
        return None


def measure_bytes(uri: str) -> int:
    """Return the number of bytes under `uri`."""
    repository = get_artifact_repository(uri)

    def sum_bytes(path: str | None) -> int:
        entries = repository.list_artifacts(path)
        return sum(sum_bytes(entry.path) if entry.is_dir else entry.file_size or 0 for entry in entries)

    return sum_bytes(None)


def probe_write(uri: str) -> None:
    """Write a small file under `uri`, read it back and delete it.

    Raises the errors of the artifact store, and `CorruptDataError` if the content differs.
    """
    content = secrets.token_bytes(64)
    repository = get_artifact_repository(f"{uri.rstrip('/')}/doctor-{secrets.token_hex(6)}")
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "probe"
        file.write_bytes(content)
        try:
            repository.log_artifact(str(file))
            file.unlink()
            repository.download_artifacts("probe", temporary)
        finally:
            repository.delete_artifacts()
        if file.read_bytes() != content:
            raise CorruptDataError("a file was read back with different content")


def delete_artifacts(client: MlflowClient, run: Run) -> None:
    """Delete a run's files and classifier; its params, metrics and tags stay.

    The run is tagged as pruned first, so that nothing refers to files that are gone.
    """
    uris = list_artifact_uris(client, run)
    client.set_tag(run.info.run_id, PRUNED_TAG, " ".join(uris))
    for model in _list_logged_models(client, run):
        client.delete_logged_model(model.model_id)
    for uri in uris:
        get_artifact_repository(uri).delete_artifacts()


def _list_logged_models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    filter_string = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], filter_string))
