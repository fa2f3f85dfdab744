"""Searches for runs in MLflow."""

import textwrap

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from relearn.flows.tracking.artifacts import JOB_TYPE_TAG
from relearn.flows.tracking.store import Client, mlflow_errors
from relearn.model.errors import NotFoundError, UserInputError

MlflowRun = Run  # the type for packages that do not import MLflow
FILTER_EXAMPLE = 'params.network = "cnn" and metrics."test/accuracy" > 0.97'


def search_training_runs(client: Client, name: str | None, filter_string: str | None) -> list[MlflowRun]:
    """Return the training runs of experiment `name`, by default of all, that match `filter_string`.

    Raises `NotFoundError` if there is none.
    """
    is_training = f"tags.`{JOB_TYPE_TAG}` = 'train'"
    query = is_training if filter_string is None else f"{is_training} and {filter_string}"
    runs = search_runs(client, name, query, filter_string)
    if not runs and filter_string is not None:
        raise NotFoundError(f"no training run fits --filter {filter_string!r}")
    if not runs:
        raise NotFoundError("no training run to compare yet: run relearn run or relearn train")
    return runs


def search_runs(
    client: Client, name: str | None, query: str, filter_string: str | None = None
) -> list[MlflowRun]:
    """Return the runs of experiment `name`, by default of all, that match `query`, an MLflow filter.

    Raises `UserInputError`, which quotes `filter_string`, if MLflow cannot parse the query.
    """
    experiments = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    if name is not None and name not in experiments:
        raise NotFoundError(f"no experiment {name!r} in MLflow, there are: {', '.join(experiments)}")
    experiment_ids = [experiments[name]] if name is not None else list(experiments.values())
    with mlflow_errors(client.tracking_uri):
        try:
            return list(mlflow.search_runs(experiment_ids, query, output_format="list"))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            raise UserInputError(
                f"--filter: got {filter_string or query!r}, accepted: a filter string of MLflow, such as "
                f"{FILTER_EXAMPLE!r}; MLflow says: {textwrap.shorten(error.message, 200, placeholder='…')}"
            ) from None
