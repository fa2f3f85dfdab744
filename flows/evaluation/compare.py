"""Runs side by side: how well they did, what was different about them, and how they learned."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from relearn.flows.evaluation import lookup
from relearn.flows.tracking.search import FILTER_EXAMPLE, MlflowRun, search_runs, search_training_runs
from relearn.flows.tracking.store import Client, connect_existing
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.evaluation.metrics import get_metric
from relearn.model.home import Home
from relearn.model.plots import learning_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("test_accuracy", "test_f1_macro", "test_loss", "val_accuracy", "time/training_seconds")
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
LARGEST = 1e300  # MLflow tells of an infinite value as the largest there is


def compare(
    home: Home,
    runs: Sequence[str] = (),
    name: str | None = None,
    sort: str | None = "test_accuracy",
    where: str | None = None,
    columns: Sequence[str] = (),
) -> pd.DataFrame:
    """One row a training run, best first by the metric `sort`; for None in the order they were named.

    Columns: run, name, the version it was registered as, dataset, status, the metrics of `SHOWN` and `sort`,
    then every other param in which the runs differ; or run, name and what `columns` names: metrics, params,
    tags. The index holds the ids, `attrs["datasets"]` the data they were tested on.

    `runs` are named as `evaluation.lookup` takes it; without any, all training runs are meant, of the
    experiment `name` where it is given. `where` is a filter of MLflow's that they have to fit. Raises
    `NotFoundError` where nothing is left to compare.
    """
    known = get_metric(sort) if sort else None
    if sort and known is None:
        raise UserInputError(f"--order-by: got {sort!r}, accepted: a metric such as {', '.join(SHOWN[:4])}")
    if where is not None and not where.strip():
        raise UserInputError(
            f"--filter: got nothing, accepted: a filter of MLflow's, such as {FILTER_EXAMPLE!r}"
        )
    client = connect_existing(home)
    found = _found(home, client, runs, name, where)
    if sort and known:
        found.sort(key=lambda run: _rank(run.data.metrics.get(sort), known.direction))
    versions = lookup.versions_by_run(client, [run.info.run_id for run in found])
    metrics = tuple(dict.fromkeys((*SHOWN, *([sort] if sort else []))))
    values = pd.DataFrame([_values(run, versions) for run in found])
    values.index = pd.Index([run.info.run_id for run in found], name="id")
    if columns:
        _check_known(columns, values)
        shown = ("run", "name", *columns)
    else:
        usual = ("run", "name", *(["version"] if versions else []), "dataset", "status", *metrics)
        params = dict.fromkeys(key for run in found for key in run.data.params)
        shown = (*usual, *(key for key in params if values[key].nunique(dropna=False) > 1))
    table = values.reindex(columns=list(dict.fromkeys(shown)))
    # By fingerprint, where there is one: the same name may have meant other images before.
    tags = [run.data.tags for run in found]
    table.attrs["datasets"] = sorted({one.get("fingerprint") or one.get("dataset", "") for one in tags})
    return table


def curves(home: Home, run_ids: Sequence[str]) -> "Figure":
    """Loss and accuracy of these runs, epoch by epoch; those that have not ended one are left out."""
    client, histories = connect_existing(home), dict[str, pd.DataFrame]()
    runs = [client.get_run(run_id) for run_id in run_ids]
    named_so = Counter(run.info.run_name for run in runs)
    for run in runs:
        history = _history(client, run.info.run_id)
        alone = named_so[run.info.run_name] == 1
        label = run.info.run_name if alone else f"{run.info.run_id[:8]} {run.info.run_name}"
        if len(history):
            histories[label] = history
    if not histories:
        raise NotFoundError("--curves: none of these runs has ended an epoch")
    return learning_curves.plot_runs(histories)


def _history(client: Client, run_id: str) -> pd.DataFrame:
    values = {key: {one.step: one.value for one in client.get_metric_history(run_id, key)} for key in CURVES}
    history = pd.DataFrame(values, columns=list(CURVES), dtype=float).sort_index()
    return history.where(history.abs() < LARGEST).rename_axis("epoch").reset_index()


def _found(
    home: Home, client: Client, runs: Sequence[str], name: str | None, where: str | None
) -> list[MlflowRun]:
    if not runs:
        return search_training_runs(client, name, where)
    asked = list(dict.fromkeys(lookup.resolve_run(home, run, name).run_id for run in runs))
    if where is None:
        return [client.get_run(run_id) for run_id in asked]
    fitting = {run.info.run_id: run for run in search_runs(client, None, where)}
    found = [fitting[run_id] for run_id in asked if run_id in fitting]
    if not found:
        raise NotFoundError(f"none of these runs fits --filter {where!r}")
    return found


def _rank(value: float | None, direction: str) -> tuple[bool, float]:
    """Best first, runs without the value last."""
    there = value is not None and value == value  # noqa: PLR0124  # NaN alone differs from itself
    return not there, (-value if direction == "max" else value) if there and value is not None else 0.0


def _values(run: MlflowRun, versions: Mapping[str, str]) -> dict[str, object]:
    """All that may be a column."""
    about = {
        "run": run.info.run_id[:8],
        "name": run.info.run_name,
        "version": versions.get(run.info.run_id, ""),
        "status": run.info.status,
    }
    return {**run.data.params, **run.data.tags, **run.data.metrics, **about}


def _check_known(asked: Sequence[str], values: pd.DataFrame) -> None:
    for column in asked:
        if column not in values:
            near = difflib.get_close_matches(column, values.columns, n=1)
            advice = f"did you mean {near[0]!r}?" if near else "accepted: the name of a metric, param or tag"
            raise UserInputError(f"--columns: got {column!r}, which none of these runs has; {advice}")
