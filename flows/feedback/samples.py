"""Blind labels of sampled predictions: the only ones that measure the live accuracy.

The server draws the images by the id of their request, before anyone has seen an answer. A person sees the
image and not the prediction. Feedback is mostly about errors that people notice: it trains, and does not
measure.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from relearn.flows.process import provenance
from relearn.model.append_log import HashChainedLog, LogEntry
from relearn.model.errors import DataError, NotFoundError
from relearn.model.file_lock import locked
from relearn.model.home import Home
from relearn.serving.predictions import reader
from relearn.serving.releases.store import ReleaseStore

LABELS_FILE = "sampled_labels.jsonl"
LOCK_TIMEOUT_SECONDS = 30.0  # the lock is held for an append, some 10 ms

Key = tuple[str, int]
"""Request id, and position of the image in the request."""


class SampledLabel(LogEntry):
    """Log entry: the label that `actor` gave the image of a prediction without having seen the answer."""

    actor: str
    request_id: str
    index: int
    label: str


class Sample(NamedTuple):
    """A sampled image without a label, uint8 (channels, height, width)."""

    key: Key
    image: np.ndarray


def list_unlabeled(home: Home, name: str) -> tuple[list[Sample], tuple[str, ...]]:
    """List the sampled images of the live version's predictions without a label, newest first; its classes.

    Raises `NotFoundError` if no version is live.
    """
    releases = ReleaseStore(home.releases_dir(name))
    live = releases.read_live()
    if live is None:
        raise NotFoundError(f"nothing is live as {name!r}: there are no predictions to label")
    folder = home.prediction_log_dir(name)
    predictions, labeled = reader.load_predictions(folder), load_labels(home, name)
    predictions = predictions[predictions["version"] == live.version].iloc[::-1]
    keys = dict.fromkeys(zip(predictions["request_id"], predictions["index"].tolist(), strict=True))
    images = reader.load_sampled_images(folder)
    samples = [Sample(key, images[key]) for key in keys if key in images and key not in labeled]
    return samples, releases.read_card(live.version).classes


def label_samples(
    home: Home,
    name: str,
    samples: Iterable[Sample],
    classes: tuple[str, ...],
    ask: Callable[[Sample], str | None],
) -> int:
    """Ask for the label of each sample and keep it at once; None skips one. Return how many were labeled.

    `ask` shows the image alone. Raises `DataError` for a label that is no class.
    """
    count = 0
    for sample in samples:
        label = ask(sample)
        if label is not None:
            record_label(home, name, sample.key, label, classes)
            count += 1
    return count


def record_label(home: Home, name: str, key: Key, label: str, classes: tuple[str, ...]) -> None:
    """Append a label to the log; a later one for the same image counts instead."""
    if label not in classes:
        raise DataError(f"label: got {label!r}, accepted: {', '.join(classes)}")
    log = _open_log(home, name)
    log.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy_message = f"another process has held {log.path} for {LOCK_TIMEOUT_SECONDS:g} seconds"
    with locked(log.path.parent / ".sampled.lock", busy_message, LOCK_TIMEOUT_SECONDS):
        entry = {"request_id": key[0], "index": key[1], "label": label}
        log.append_entries(entry | {"actor": provenance.current_user()})


def load_labels(home: Home, name: str) -> dict[Key, str]:
    """Load the label of each labeled sample."""
    entries = _open_log(home, name).read_entries()
    return {(entry.request_id, entry.index): entry.label for entry in entries}


def _open_log(home: Home, name: str) -> HashChainedLog[SampledLabel]:
    return HashChainedLog(home.feedback_dir(name) / LABELS_FILE, SampledLabel)
