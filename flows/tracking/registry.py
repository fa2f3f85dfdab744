"""Trained classifiers in MLflow: logged as models of a run, registered as versions of a model name.

They are stored as safetensors and JSON, without pickle.
"""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from relearn.flows.tracking.artifacts import PRUNED_TAG
from relearn.flows.tracking.runs import Run
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import CARD_FILE, ModelCard, read_card

CHAMPION_ALIAS, PREVIOUS_ALIAS = "champion", "previous"
NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second for an unset alias


def log_classifier(
    run: Run, classifier: Classifier, training_hashes: np.ndarray, timestamp_ms: int | None = None
) -> str:
    """Log `classifier` with its signature and metrics as a logged model of `run`; returns the model's id.

    `training_hashes`, uint64 (n,), are the hashes of the images that it was trained on. `timestamp_ms` is
    the time of the metrics (Unix, now by default). Logging again for the same run updates the same model.
    """
    card = classifier.card
    existing_models = run.client.search_logged_models([run.experiment_id], f"source_run_id = '{run.id}'")
    logged_model = next(iter(existing_models), None) or mlflow.initialize_logged_model(
        card.name,
        source_run_id=run.id,
        params={"network": card.config.network},
        tags={"dataset": card.dataset},
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "classifier"
        classifier.save(folder, training_hashes)
        mlflow_model = Model(
            artifact_path="", run_id=run.id, signature=build_signature(card), model_id=logged_model.model_id
        )
        mlflow_model.add_flavor("relearn", data=".")
        mlflow_model.save(str(folder / "MLmodel"))
        run.client.log_model_artifacts(logged_model.model_id, str(folder))
    mlflow.finalize_logged_model(logged_model.model_id, "READY")
    if _find_output_model_id(run.client, run.id) is None:
        run.client.log_outputs(run.id, [LoggedModelOutput(logged_model.model_id, step=0)])
    metrics = {f"test/{name}": value for name, value in card.metrics.items()}
    mlflow.log_metrics(metrics, run_id=run.id, timestamp=timestamp_ms, model_id=logged_model.model_id)
    return str(logged_model.model_id)


def build_signature(card: ModelCard) -> ModelSignature:
    """Return the signature: uint8 images (n, *shape) in, float32 probabilities (n, classes) out."""
    image_spec = TensorSpec(np.dtype("uint8"), (-1, *card.shape), "images")
    probability_spec = TensorSpec(np.dtype("float32"), (-1, len(card.classes)), "probabilities")
    return ModelSignature(inputs=Schema([image_spec]), outputs=Schema([probability_spec]))


def register(client: MlflowClient, run_id: str, name: str) -> str:
    """Register the classifier of a run as the next version of `name`; returns the version.

    A run that is registered already keeps its version.
    """
    for version, version_run_id in list_versions(client, name).items():
        if version_run_id == run_id:
            return version
    with suppress(MlflowException):  # it exists already
        client.create_registered_model(name)
    model_id = get_logged_model_id(client, run_id)
    # MLflow's server accepts this source only together with `model_id`.
    return str(client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id).version)


def sync_aliases(client: MlflowClient, name: str, aliases: Mapping[str, str | None]) -> list[str]:
    """Set each alias of `name` to its version, or delete it for None; returns a message per change.

    If a version is no longer registered, its alias is left as it is; a message says so.
    """
    messages = []
    for alias, current_version in find_mismatched_aliases(client, name, aliases).items():
        version = aliases[alias]
        message = (
            f"@{alias} of {name} pointed to {current_version or 'no version'}, the ledger says"
            f" {version or 'no version'}"
        )
        try:
            if version is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, version)
        except MlflowException as error:
            if error.error_code not in NOT_FOUND_CODES:
                raise
            message = f"@{alias} of {name} cannot point to version {version}: it is gone from MLflow"
        messages.append(message)
    return messages


def find_mismatched_aliases(
    client: MlflowClient, name: str, aliases: Mapping[str, str | None]
) -> dict[str, str | None]:
    """Return the aliases whose registered version differs from `aliases`, with that registered version."""
    version_by_alias = {alias: _get_version_by_alias(client, name, alias) for alias in aliases}
    return {alias: version for alias, version in version_by_alias.items() if version != aliases[alias]}


def list_versions(client: MlflowClient, name: str) -> dict[str, str]:
    """Return the registered versions of `name`, each with its run id."""
    # No model of ours has a quote in its name.
    model_versions = client.search_model_versions(f"name = '{name}'") if "'" not in name else []
    return {str(version.version): str(version.run_id) for version in model_versions}


def find_versions_with_alias(client: MlflowClient, name: str) -> set[str]:
    """Return the versions of `name` that have any alias."""
    try:
        return {str(version) for version in client.get_registered_model(name).aliases.values()}
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return set()
        raise


def delete_version(client: MlflowClient, name: str, version: str) -> None:
    """Delete a version from the registry; does nothing if it is not registered."""
    with suppress(MlflowException):
        client.get_model_version(name, version)
        client.delete_model_version(name, version)


def _get_version_by_alias(client: MlflowClient, name: str, alias: str) -> str | None:
    """Return the version of an alias, None without it. Not by a search: its results may lack aliases."""
    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


def get_logged_model_id(client: MlflowClient, run_id: str) -> str:
    """Return the id of the model that a run logged; raises `NotFoundError` if it has none or was pruned."""
    if PRUNED_TAG in client.get_run(run_id).data.tags:
        raise NotFoundError(f"the classifier of run {run_id[:8]} was deleted by relearn prune")
    model_id = _find_output_model_id(client, run_id)
    if model_id is None:
        raise NotFoundError(f"the run {run_id} has no classifier")
    return model_id


def _find_output_model_id(client: MlflowClient, run_id: str) -> str | None:
    outputs = client.get_run(run_id).outputs
    return str(outputs.model_outputs[-1].model_id) if outputs and outputs.model_outputs else None


def download_classifier(client: MlflowClient, run_id: str, folder: Path) -> Path:
    """Download the classifier of a run into `folder`; returns the folder.

    Raises `CorruptDataError` if its files are missing or invalid, `NotFoundError` if the run has none.
    """
    try:
        mlflow.artifacts.download_artifacts(
            f"models:/{get_logged_model_id(client, run_id)}", dst_path=str(folder)
        )
    except (MlflowException, OSError) as error:
        raise CorruptDataError(f"the classifier of run {run_id} cannot be downloaded: {error}") from None
    if not (folder / CARD_FILE).is_file():
        raise CorruptDataError(f"the classifier of run {run_id[:8]} is missing from MLflow's artifacts")
    read_card(folder)
    return folder
