"""Reader of the prediction log: predictions with their labels from feedback as a DataFrame, and images."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from relearn.serving.logger import logger
from relearn.serving.predictions.entries import Entry, Feedback, LoggedImage, Prediction

if TYPE_CHECKING:
    import pandas as pd  # not imported by the server

EntryT = TypeVar("EntryT", bound=Entry)
KEY_TYPES = {"request_id": "str", "index": "int64"}  # of the columns that identify a prediction


def load_predictions(folder: Path) -> "pd.DataFrame":
    """Load one row for each predicted image, oldest first; an empty log gives an empty table.

    Columns: the fields of `Prediction` with `time` as a timestamp (UTC) and `p_CLASS` for every class (NaN
    for a class that the version does not know), and `label`: the last label from feedback, NaN without
    feedback. The 200,000 rows of 10 classes that the default `log_max_mb` keeps take 2.5 s of a core.
    """
    import pandas as pd

    tables = [_to_frame(entries) for entries in _read_files(folder, "predictions", Prediction) if entries]
    frame = pd.concat(tables or [_to_frame([])], ignore_index=True).sort_values("time", kind="stable")
    labels = pd.DataFrame(
        [(entry.request_id, entry.index, entry.label) for entry in load_feedback(folder)],
        columns=[*KEY_TYPES, "label"],
    ).astype({**KEY_TYPES, "label": "str"})
    frame = frame.merge(labels.drop_duplicates([*KEY_TYPES], keep="last"), "left", [*KEY_TYPES])
    # Feedback refers to the last request with its id: a client may reuse one.
    frame.loc[frame.duplicated([*KEY_TYPES], keep="last"), "label"] = None
    return frame


def load_feedback(folder: Path) -> list[Feedback]:
    """Load all feedback, oldest first; the last entry for an image counts."""
    entries = [entry for entries in _read_files(folder, "feedback", Feedback) for entry in entries]
    return sorted(entries, key=lambda entry: entry.time)


def load_images(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Load every image that was sampled or sent with feedback, uint8 (channels, height, width).

    A key is the id of the request and the index of the image in it.
    """
    return load_sampled_images(folder) | _decode_images(load_feedback(folder))


def load_sampled_images(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Load the images that the server drew by the id of their request, by the same keys."""
    return _decode_images(
        entry for entries in _read_files(folder, "images", LoggedImage) for entry in entries
    )


def count_entries(folder: Path) -> tuple[int, int]:
    """Return the numbers of logged predictions and of feedback entries."""
    predictions, feedback = (
        sum(content.count(b"\n") for _, content in _list_files(folder, kind))
        for kind in ("predictions", "feedback")
    )
    return predictions, feedback


def _decode_images(entries: Iterable[LoggedImage]) -> dict[tuple[str, int], np.ndarray]:
    return {
        (entry.request_id, entry.index): image
        for entry in entries
        if (image := entry.decode_image()) is not None
    }


def _to_frame(entries: list[Prediction]) -> "pd.DataFrame":
    import pandas as pd

    rows = [msgspec.structs.astuple(entry) for entry in entries]
    frame = pd.DataFrame(rows, columns=Prediction.__struct_fields__).astype(KEY_TYPES)
    frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
    probabilities = pd.DataFrame(list(frame.pop("probabilities")), frame.index)
    return frame.join(probabilities.add_prefix("p_"))


def _read_files(folder: Path, kind: str, entry_type: type[EntryT]) -> Iterator[list[EntryT]]:
    """Yield the entries of each file, oldest file first; skip invalid lines with a warning."""
    decoder = msgspec.json.Decoder(entry_type)
    for file, content in _list_files(folder, kind):
        entries, invalid_count = [], 0
        for line in content.split(b"\n")[:-1]:  # what follows the last newline is incomplete
            try:
                entries.append(decoder.decode(line))
            except ValueError:
                invalid_count += 1
        if invalid_count:
            logger.warning(
                "%s: %d lines are ignored, since they have other fields or are no JSON", file, invalid_count
            )
        yield entries


def _list_files(folder: Path, kind: str) -> Iterator[tuple[Path, bytes]]:
    """Yield each file with its content, oldest first; skip files that are deleted meanwhile."""
    files = sorted(folder.glob(f"{kind}-*"))
    if old_count := sum(file.suffix != ".jsonl" for file in files):
        logger.warning(
            "%s: %d files %s-* are ignored, since an earlier version wrote them", folder, old_count, kind
        )
    for file in files:
        if file.suffix == ".jsonl":
            with suppress(FileNotFoundError):
                yield file, file.read_bytes()
