"""What MLflow keeps of the runs of one name: who belongs together, how much it is, and how it goes."""

import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from relearn.model.errors import IntegrityError

PRUNED = "relearn.pruned"  # tag: where the files were that were removed; they are tried again while it is set
KIND = "relearn.kind"  # tag: what a run did
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Family:
    """A run with those that it is the parent of; `kind` is what it did: retrain, train, evaluate."""

    kind: str
    name: str
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, root: Run, others: list[Run]) -> Self:
        children = [run for run in others if run.data.tags.get(PARENT) == root.info.run_id]
        return cls(root.data.tags[KIND], str(root.info.run_name), (root, *children))

    @property
    def ids(self) -> set[str]:
        return {run.info.run_id for run in self.runs}

    @property
    def under_way(self) -> bool:
        return any(run.info.status == "RUNNING" for run in self.runs)


def names(client: MlflowClient) -> list[str]:
    """Of all experiments; those of other programs have no families of ours."""
    return [experiment.name for experiment in client.search_experiments()]


def families(client: MlflowClient, name: str) -> list[Family]:
    """All runs of ours in the experiment `name`, newest first."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return []
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    there = {run.info.run_id for run in runs}
    roots = [run for run in runs if KIND in run.data.tags and run.data.tags.get(PARENT) not in there]
    return [Family.of(root, runs) for root in roots]


def places(client: MlflowClient, run: Run) -> list[str]:
    """The URIs under which a run's files lie: its own, and those of its classifier."""
    if PRUNED in run.data.tags:
        return run.data.tags[PRUNED].split()
    return [run.info.artifact_uri, *(model.artifact_location for model in _models(client, run))]


def size(uri: str) -> int:
    """Bytes under `uri`."""
    repository = get_artifact_repository(uri)

    def total(path: str | None) -> int:
        found = repository.list_artifacts(path)
        return sum(total(one.path) if one.is_dir else one.file_size or 0 for one in found)

    return total(None)


def try_out(uri: str) -> None:
    """Keep a small file under `uri`, read it back, and remove it again; raises what its store raises."""
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
            raise IntegrityError("a file came back as another one")


def remove(client: MlflowClient, run: Run) -> None:
    """Take a run's files and classifier away; its params, metrics and tags stay.

    What points at files goes before them: first the run says that it has none.
    """
    uris = places(client, run)
    client.set_tag(run.info.run_id, PRUNED, " ".join(uris))
    for model in _models(client, run):
        client.delete_logged_model(model.model_id)
    for uri in uris:
        get_artifact_repository(uri).delete_artifacts()


def _models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    asked = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], asked))
