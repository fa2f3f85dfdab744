"""History of the data that classifiers learned from, and differences between two data sets.

Each training run keeps a list of its images, IMAGES_FILE: split, class, hash of the pixels, and file or row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from relearn.flows.tracking.artifacts import JOB_TYPE_TAG
from relearn.flows.tracking.search import MlflowRun, search_runs
from relearn.flows.tracking.store import connect_existing, mlflow_errors
from relearn.model.config import TrainConfig
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.model.preparation.prepared import IMAGES_FILE, prepare_dataset, read_image_list

MIN_PREFIX = 4  # characters of an id or a fingerprint


@dataclass(frozen=True)
class LearnedData:
    """The data of one training run; `counts` are images by class (rows) and split (columns), if kept."""

    date: datetime
    run_id: str
    model_name: str
    fingerprint: str
    counts: pd.DataFrame | None


@dataclass(frozen=True)
class DataDifference:
    """Images that only one of two data sets has, and those of another class or split in the second.

    Columns: file (or row, or hash), before, after; the class, or class and split.
    """

    added: pd.DataFrame
    removed: pd.DataFrame
    relabeled: pd.DataFrame
    moved: pd.DataFrame
    unchanged: int


def list_learned_data(home: Home, model_name: str | None) -> Iterator[LearnedData]:
    """Yield the data of each training run of `model_name`, by default of all, newest first."""
    client, counts = connect_existing(home), dict[str, pd.DataFrame | None]()
    for run in search_runs(client, model_name, f"tags.`{JOB_TYPE_TAG}` = 'train'"):
        fingerprint = run.data.tags.get("fingerprint", "")
        if fingerprint not in counts:
            images = load_image_list(run)
            counts[fingerprint] = None if images is None else pd.crosstab(images["class"], images["split"])
        date = datetime.fromtimestamp(run.info.start_time / 1000)
        name = client.get_experiment(run.info.experiment_id).name
        yield LearnedData(date, run.info.run_id, name, fingerprint, counts[fingerprint])


def find_image_list(home: Home, reference: str) -> pd.DataFrame:
    """Return the images of a run (id), of a data set (fingerprint), or of a source as for `--dataset`."""
    if run := _find_run(home, reference):
        images = load_image_list(run)
        if images is None:
            name = f"{reference!r}: run {run.info.run_id[:8]}"
            raise NotFoundError(f"{name} keeps no list of its images, accepted: a run of this version")
        return images
    try:
        return read_image_list(prepare_dataset(TrainConfig(dataset=reference), home).folder)
    except UserInputError as error:
        raise UserInputError(
            f"got {reference!r}, accepted: the first characters of a run id or of a fingerprint, which "
            f"relearn data history lists, or a source ({error})"
        ) from None


def _find_run(home: Home, reference: str) -> MlflowRun | None:
    """Return the newest training run whose id or fingerprint starts with `reference`."""
    if len(reference) < MIN_PREFIX:
        return None
    try:
        runs = search_runs(connect_existing(home), None, f"tags.`{JOB_TYPE_TAG}` = 'train'")
    except NotFoundError:  # nothing was learned yet
        return None
    return next(
        (
            run
            for run in runs
            if run.info.run_id.startswith(reference)
            or run.data.tags.get("fingerprint", "").startswith(reference)
        ),
        None,
    )


def compare_image_lists(before: pd.DataFrame, after: pd.DataFrame) -> DataDifference:
    """Compare two data sets by the pixels of their images, whatever their files are called."""
    before, after = (images.drop_duplicates("hash").set_index("hash") for images in (before, after))
    common = before.index.intersection(after.index)
    pair = before.loc[common].merge(
        after.loc[common], left_index=True, right_index=True, suffixes=("_before", "_after")
    )
    is_relabeled = pair["class_before"] != pair["class_after"]
    is_moved = ~is_relabeled & (pair["split_before"] != pair["split_after"])
    return DataDifference(
        added=_rows(after.loc[after.index.difference(common, sort=False)], after="class"),
        removed=_rows(before.loc[before.index.difference(common, sort=False)], before="class"),
        relabeled=_rows(pair[is_relabeled], "file_after", before="class_before", after="class_after"),
        moved=_rows(pair[is_moved], "file_after", before="split_before", after="split_after"),
        unchanged=int((~is_relabeled & ~is_moved).sum()),
    )


def _rows(images: pd.DataFrame, file: str = "file", **columns: str) -> pd.DataFrame:
    """Return file, else hash, and the given columns by their new names."""
    names = images[file].where(images[file] != "", images.index.to_series())
    return pd.DataFrame({"file": names} | {name: images[column] for name, column in columns.items()})


def load_image_list(run: MlflowRun) -> pd.DataFrame | None:
    """Return the list of images that a run keeps; None for a run of an earlier version."""
    with mlflow_errors(mlflow.get_tracking_uri()):
        try:
            uri = f"runs:/{run.info.run_id}/data/{IMAGES_FILE}"
            return read_image_list(mlflow.artifacts.download_artifacts(uri))
        except (MlflowException, OSError):
            return None
