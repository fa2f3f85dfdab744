"""Trained classifiers in MLflow: logged as models of a run, registered as versions of a model name.

They are stored as safetensors and JSON, without pickle.
"""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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


class Version(NamedTuple):
    """A version number and the run that it labels: the run is the identity."""

    number: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.number} (run {self.run_id[:8]})"


def register(client: MlflowClient, run_id: str, name: str, released: Mapping[str, str]) -> str:
    """Register the classifier of a run under `name`; return the version number of its release.

    `released` maps the numbers of earlier releases to their run ids, "" if unknown. A run keeps its number; a
    new one gets the next that is free in both. If MLflow counts from 1 again, because somebody deleted or
    renamed the registered model, the earlier releases are registered again.
    """
    registered = find_number(client, run_id, name, released) or _add_version(client, run_id, name, released)
    return next((number for number, released_id in released.items() if released_id == run_id), registered)


def find_number(client: MlflowClient, run_id: str, name: str, released: Mapping[str, str]) -> str | None:
    """Return the number under which a run is registered, preferably that of its release; None without one."""
    numbers = [
        number
        for number, registered_id in list_versions(client, name).items()
        if registered_id == run_id and released.get(number) in (None, "", run_id)
    ]
    return next((number for number in numbers if number in released), numbers[0] if numbers else None)


def _add_version(client: MlflowClient, run_id: str, name: str, released: Mapping[str, str]) -> str:
    """Register a run, and before it the earlier releases whose numbers come first; return its number.

    The number of a release whose run is gone is used up: registered and deleted.
    """
    with suppress(MlflowException):  # it exists already
        client.create_registered_model(name)
    last_number = max(map(int, list_versions(client, name)), default=0)
    while True:
        owner_id = released.get(str(last_number + 1)) or run_id
        try:
            number = _create_version(client, owner_id, name)
        except NotFoundError:
            if owner_id == run_id:
                raise
            owner_id, number = run_id, _create_version(client, run_id, name)
        last_number = int(number)  # may skip some: MLflow does not show the numbers of deleted versions
        if released.get(number, run_id) != owner_id:
            client.delete_model_version(name, number)
        elif owner_id == run_id:
            return number


def _create_version(client: MlflowClient, run_id: str, name: str) -> str:
    try:
        model_id = get_logged_model_id(client, run_id)
        # MLflow's server accepts this source only together with `model_id`.
        version = client.create_model_version(name, f"models:/{model_id}", run_id, model_id=model_id)
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES or "Unable to fetch model" in error.message:
            raise NotFoundError(f"the classifier of run {run_id[:8]} is gone from MLflow") from None
        raise
    return str(version.version)


def sync_aliases(
    client: MlflowClient, name: str, aliases: Mapping[str, Version | None], released: Mapping[str, str]
) -> list[str]:
    """Set each alias of `name` to the run of its version, or delete it for None; return a message per change.

    If a run is not registered, its alias is left as it is; a message says so.
    """
    messages = []
    for alias, current in find_mismatched_aliases(client, name, aliases).items():
        version = aliases[alias]
        message = describe_mismatch(f"@{alias} of {name} pointed", current, version)
        if version is None:
            client.delete_registered_model_alias(name, alias)
        elif number := find_number(client, version.run_id, name, released):
            client.set_registered_model_alias(name, alias, number)
        else:
            message = f"@{alias} of {name} cannot point to version {version}: its run is gone from MLflow"
        messages.append(message)
    return messages


def find_mismatched_aliases(
    client: MlflowClient, name: str, aliases: Mapping[str, Version | None]
) -> dict[str, Version | None]:
    """Return the aliases that point to another run than in `aliases`, with the version they point to."""
    registered = {alias: _get_version_by_alias(client, name, alias) for alias in aliases}
    return {
        alias: version
        for alias, version in registered.items()
        if (version and version.run_id) != ((expected := aliases[alias]) and expected.run_id)
    }


def describe_mismatch(alias: str, current: Version | None, expected: Version | None) -> str:
    """Say where `alias` points, such as `@champion points`, and where it should."""
    return f"{alias} to {current or 'no version'}, the ledger says {expected or 'no version'}"


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


def _get_version_by_alias(client: MlflowClient, name: str, alias: str) -> Version | None:
    """Return the version of an alias, None without it. Not by a search: its results may lack aliases."""
    try:
        version = client.get_model_version_by_alias(name, alias)
        return Version(str(version.version), str(version.run_id))
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


def get_logged_model_id(client: MlflowClient, run_id: str) -> str:
    """Return the id of the model that a run logged; raises `NotFoundError` if it has none or was pruned."""
    if PRUNED_TAG in client.get_run(run_id).data.tags:
        raise NotFoundError(f"the classifier of run {run_id[:8]} was deleted by relearn home prune")
    model_id = _find_output_model_id(client, run_id)
    if model_id is None:
        raise NotFoundError(f"the run {run_id} has no classifier")
    return model_id


def has_classifier(client: MlflowClient, run_id: str) -> bool:
    """Return whether MLflow has the run and its classifier."""
    try:
        client.get_logged_model(get_logged_model_id(client, run_id))
    except NotFoundError:
        return False
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return False
        raise
    return True


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
