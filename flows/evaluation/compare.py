"""Comparison of tracked runs: table of metrics and settings, learning curves."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from relearn.flows.evaluation import run_resolver
from relearn.flows.tracking.search import FILTER_EXAMPLE, MlflowRun, search_runs, search_training_runs
from relearn.flows.tracking.store import Client, connect_existing
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.evaluation.metrics import get_metric
from relearn.model.home import Home
from relearn.model.plots import learning_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_METRICS = (
    *("test/accuracy", "test/accuracy_low", "test/accuracy_high", "test/images"),
    *("test/f1_macro", "test/loss", "best/val_accuracy", "time/training_seconds"),
)
CURVE_METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
MAX_FINITE = 1e300  # MLflow returns infinity as the largest float


def compare_runs(
    home: Home,
    runs: Sequence[str] = (),
    name: str | None = None,
    order_by: str | None = "test/accuracy",
    filter_string: str | None = None,
    columns: Sequence[str] = (),
) -> pd.DataFrame:
    """Return one row per training run, best first by the metric `order_by`; None keeps the order of `runs`.

    Columns: run, name, registered version, dataset, status, the metrics of `DEFAULT_METRICS` and `order_by`,
    then every other param in which the runs differ; or run, name and `columns`: metrics, params, tags. The
    index holds the run ids, `attrs["datasets"]` the datasets that the runs were tested on.

    `runs` are queries for `resolve_run`; if empty, all training runs are compared, or those of the
    experiment `name`. `filter_string` is an MLflow filter. Raises `NotFoundError` if no run
    matches.
    """
    metric_info = get_metric(order_by) if order_by else None
    if order_by and metric_info is None:
        raise UserInputError(
            f"--order-by: got {order_by!r}, accepted: a metric such as test/accuracy, test/loss"
        )
    if filter_string is not None and not filter_string.strip():
        raise UserInputError(
            f"--filter: got nothing, accepted: a filter string of MLflow, such as {FILTER_EXAMPLE!r}"
        )
    client = connect_existing(home)
    mlflow_runs = _find_runs(home, client, runs, name, filter_string)
    if order_by and metric_info:
        mlflow_runs.sort(key=lambda run: _sort_key(run.data.metrics.get(order_by), metric_info.direction))
    versions = run_resolver.versions_by_run(client, [run.info.run_id for run in mlflow_runs])
    metrics = tuple(dict.fromkeys((*DEFAULT_METRICS, *([order_by] if order_by else []))))
    values = pd.DataFrame([_column_values(run, versions) for run in mlflow_runs])
    values.index = pd.Index([run.info.run_id for run in mlflow_runs], name="id")
    if columns:
        _check_columns(columns, values)
        selected = ("run", "name", *columns)
    else:
        default_columns = ("run", "name", *(["version"] if versions else []), "dataset", "status", *metrics)
        params = dict.fromkeys(key for run in mlflow_runs for key in run.data.params)
        selected = (*default_columns, *(key for key in params if values[key].nunique(dropna=False) > 1))
    table = values.reindex(columns=list(dict.fromkeys(selected)))
    # By fingerprint, if there is one: a dataset of the same name may have had other images before.
    run_tags = [run.data.tags for run in mlflow_runs]
    table.attrs["datasets"] = sorted(
        {tags.get("fingerprint") or tags.get("dataset", "") for tags in run_tags}
    )
    return table


def plot_curves(home: Home, run_ids: Sequence[str]) -> "Figure":
    """Plot loss and accuracy of these runs by epoch; runs without a finished epoch are left out."""
    client, histories = connect_existing(home), dict[str, pd.DataFrame]()
    runs = [client.get_run(run_id) for run_id in run_ids]
    name_counts = Counter(run.info.run_name for run in runs)
    for run in runs:
        history = load_history(client, run.info.run_id)
        is_unique = name_counts[run.info.run_name] == 1
        label = run.info.run_name if is_unique else f"{run.info.run_id[:8]} {run.info.run_name}"
        if len(history):
            histories[label] = history
    if not histories:
        raise NotFoundError("--curves: none of these runs has ended an epoch")
    return learning_curves.plot_runs(histories)


def load_history(client: Client, run_id: str) -> pd.DataFrame:
    """Return loss and accuracy of a run, one row per epoch; without rows if it has no epochs."""
    values = {
        key: {metric.step: metric.value for metric in client.get_metric_history(run_id, f"epoch/{key}")}
        for key in CURVE_METRICS
    }
    history = pd.DataFrame(values, columns=list(CURVE_METRICS), dtype=float).sort_index()
    return history.where(history.abs() < MAX_FINITE).rename_axis("epoch").reset_index()


def _find_runs(
    home: Home, client: Client, queries: Sequence[str], name: str | None, filter_string: str | None
) -> list[MlflowRun]:
    if not queries:
        return search_training_runs(client, name, filter_string)
    run_ids = list(dict.fromkeys(run_resolver.resolve_run(home, query, name).run_id for query in queries))
    if filter_string is None:
        return [client.get_run(run_id) for run_id in run_ids]
    matching_runs = {run.info.run_id: run for run in search_runs(client, None, filter_string)}
    runs = [matching_runs[run_id] for run_id in run_ids if run_id in matching_runs]
    if not runs:
        raise NotFoundError(f"none of these runs fits --filter {filter_string!r}")
    return runs


def _sort_key(value: float | None, direction: str) -> tuple[bool, float]:
    """Return a key that sorts the best value first, and runs without the value last."""
    if value is None or value != value:  # noqa: PLR0124  # NaN alone differs from itself
        return True, 0.0
    return False, -value if direction == "max" else value


def _column_values(run: MlflowRun, versions: Mapping[str, str]) -> dict[str, object]:
    """Return the values of a run by column name: metrics, params, tags and attributes."""
    run_info = {
        "run": run.info.run_id[:8],
        "name": run.info.run_name,
        "version": versions.get(run.info.run_id, ""),
        "status": run.info.status,
    }
    return {**run.data.params, **run.data.tags, **run.data.metrics, **run_info}


def _check_columns(columns: Sequence[str], values: pd.DataFrame) -> None:
    for column in columns:
        if column not in values:
            matches = difflib.get_close_matches(column, values.columns, n=1)
            advice = (
                f"did you mean {matches[0]!r}?" if matches else "accepted: the name of a metric, param or tag"
            )
            raise UserInputError(f"--columns: got {column!r}, which none of these runs has; {advice}")
