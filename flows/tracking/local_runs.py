"""The newest runs of a local store, read from its SQLite file: the import of MLflow takes 2 s, this 10 ms."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from relearn.model.home import Home

TIMEOUT_SECONDS = 1.0  # for a writer that holds the database
QUERY = """
    select experiments.name, runs.run_uuid, runs.name, job.value, runs.status, runs.start_time, accuracy.value
    from runs
    join experiments on experiments.experiment_id = runs.experiment_id
    join tags job on job.run_uuid = runs.run_uuid
        and job.key = 'relearn.job_type' and job.value in ('train', 'retrain')
    left join tags parent on parent.run_uuid = runs.run_uuid and parent.key = 'mlflow.parentRunId'
    left join latest_metrics accuracy on accuracy.run_uuid = runs.run_uuid and accuracy.key = 'test/accuracy'
    where runs.lifecycle_stage = 'active' and parent.value is null
    order by runs.start_time desc
"""


@dataclass(frozen=True)
class LocalRun:
    """A training or retraining; `accuracy` is that on the test images, 0–1, `started` a Unix time."""

    model_name: str
    run_id: str
    name: str
    job_type: str
    status: str
    started: float
    accuracy: float | None


def find_local_store(home: Home) -> Path | None:
    """Return the SQLite file of the runs of `home`, which may not exist; None if they are elsewhere."""
    prefix, uri = "sqlite:///", home.tracking_uri
    return Path(uri.removeprefix(prefix).partition("?")[0]) if uri.startswith(prefix) else None


def list_local_runs(home: Home) -> list[LocalRun]:
    """Return the trainings and retrainings, newest first; those of a retraining are left out.

    Empty without a local store. Raises `sqlite3.Error` if it cannot be read.
    """
    file = find_local_store(home)
    if file is None or not file.is_file():
        return []
    uri = f"file:{quote(str(file))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_SECONDS)) as database:
        return [
            LocalRun(model_name, run_id, name, job_type, status, milliseconds / 1000, accuracy)
            for model_name, run_id, name, job_type, status, milliseconds, accuracy in database.execute(QUERY)
        ]
