"""Runs side by side: how well they did, and what was different about them."""

from collections.abc import Sequence

import pandas as pd
from mlflow.entities import Run as MlflowRun

from flows.store import look_into
from flows.tracking import find
from model.errors import InputError, NotFoundError
from model.home import Home
from model.metrics import metric

SHOWN = ("test_accuracy", "test_f1_macro", "test_loss", "val_accuracy", "time/training_seconds")


def compare(
    home: Home, runs: Sequence[str] = (), name: str | None = None, sort: str = "test_accuracy"
) -> pd.DataFrame:
    """One row a training run, best first by the metric `sort`.

    Columns: run, name, dataset, status, the metrics of `SHOWN` and `sort`, then every other param in
    which the runs differ. `runs` are ids, beginnings of ids or names; without any, all training runs, of the
    experiment `name` where it is given. Raises `NotFoundError` where there is nothing to compare.
    """
    known = metric(sort)
    if known is None:
        raise InputError(f"--sort: got {sort!r}, accepted: a metric such as {', '.join(SHOWN[:4])}")
    found = _asked(home, runs) if runs else _all(home, name)
    rows = [_row(run, tuple(dict.fromkeys((*SHOWN, sort)))) for run in found]
    table = pd.DataFrame(rows).sort_values(sort, ascending=known.direction == "min", na_position="last")
    params = pd.DataFrame([run.data.params for run in found], index=[run.info.run_id[:8] for run in found])
    differing = [key for key in params.columns if key not in table and params[key].nunique(dropna=False) > 1]
    return table.merge(params[differing], left_on="run", right_index=True).reset_index(drop=True)


def _asked(home: Home, runs: Sequence[str]) -> list[MlflowRun]:
    client = look_into(home)
    return [client.get_run(run_id) for run_id in dict.fromkeys(find(home, run) for run in runs)]


def _all(home: Home, name: str | None) -> list[MlflowRun]:
    client = look_into(home)
    known = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    if name is not None and name not in known:
        raise NotFoundError(f"no experiment {name!r} in MLflow, there are: {', '.join(known)}")
    experiments = [known[name]] if name is not None else list(known.values())
    found = client.search_runs(experiments, "tags.`relearn.kind` = 'train'", max_results=1000)
    if not found:
        raise NotFoundError("no training run to compare yet: run relearn run or relearn train")
    return list(found)


def _row(run: MlflowRun, metrics: Sequence[str]) -> dict[str, object]:
    return {
        "run": run.info.run_id[:8],
        "name": run.info.run_name,
        "dataset": run.data.tags.get("dataset", ""),
        "status": run.info.status,
    } | {key: run.data.metrics.get(key) for key in metrics}
