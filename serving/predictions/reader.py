"""Reader of the prediction log: predictions with their labels from feedback as a DataFrame, and images."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from relearn.serving.logger import logger
from relearn.serving.predictions.prediction_log import Feedback

if TYPE_CHECKING:
    import pandas as pd  # not imported by the server


RecordKey = tuple[str, int]  # of an image: request id, index in the request
KEY_COLUMNS = ("request_id", "index")


def load_predictions(folder: Path) -> "pd.DataFrame":
    """Load one row for each predicted image, oldest first; an empty log gives an empty table.

    Columns: `request_id`, `index` of the image in its request, `time` (UTC), `worker`, `version`,
    `predicted_label`, `p_CLASS` for every class (NaN for a class that the version does not know), the
    `STATISTICS` of the image, and `label`: the last label from feedback, NaN without feedback. Takes 3 s for
    a million rows.
    """
    import pandas as pd

    tables = [_to_frame(header, rows) for header, rows in _read_tables(folder, "predictions")]
    if not tables:
        return pd.DataFrame(columns=[*KEY_COLUMNS, "time", "worker", "version", "predicted_label", "label"])
    frame = pd.concat(tables, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)
    label_by_key = {(entry.request_id, entry.index): entry.label for entry in load_feedback(folder)}
    frame["label"] = pd.Series(None, frame.index, dtype="str")
    candidate_rows = frame.loc[frame["request_id"].isin({request_id for request_id, _ in label_by_key})]
    # Feedback refers to the last request with its id: a client may reuse one.
    row_by_key = dict(
        zip(
            zip(candidate_rows["request_id"], candidate_rows["index"], strict=True),
            candidate_rows.index,
            strict=True,
        )
    )
    matched_keys = [key for key in label_by_key if key in row_by_key]
    frame.loc[[row_by_key[key] for key in matched_keys], "label"] = [
        label_by_key[key] for key in matched_keys
    ]
    return frame


def load_feedback(folder: Path) -> list[Feedback]:
    """Load all feedback, oldest first; the last entry for an image counts."""
    lines = [line for _, content in _read_files(folder, "feedback") for line in content.split(b"\n")]
    entries = []
    for line in lines:
        with suppress(msgspec.DecodeError, ValueError):  # an incomplete last line or a foreign file
            entry = msgspec.json.decode(line, type=Feedback)
            decode_feedback_image(entry)
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry.time)


def count_entries(folder: Path) -> tuple[int, int]:
    """Return the numbers of logged predictions, from the sizes of the files, and of feedback entries."""
    prediction_count = 0
    for file in folder.glob("predictions-*"):
        with suppress(OSError, ValueError), file.open("rb") as stream:  # just deleted or just created
            header_line = stream.readline()
            prediction_count += (file.stat().st_size - len(header_line)) // _parse_row_dtype(
                json.loads(header_line)
            ).itemsize
    return prediction_count, sum(content.count(b"\n") for _, content in _read_files(folder, "feedback"))


def load_images(folder: Path) -> dict[RecordKey, np.ndarray]:
    """Load every logged image, uint8 (channels, height, width), from samples and from feedback."""
    sampled_images = {
        (row["request_id"].decode(), int(row["index"])): row["image"].copy()
        for _, rows in _read_tables(folder, "images")
        for row in rows
    }
    feedback_images = [
        ((entry.request_id, entry.index), decode_feedback_image(entry)) for entry in load_feedback(folder)
    ]
    return sampled_images | {key: image for key, image in feedback_images if image is not None}


def decode_feedback_image(entry: Feedback) -> np.ndarray | None:
    """Decode the image of the feedback, if any: uint8 (channels, height, width)."""
    if entry.pixels is None or entry.shape is None:
        return None
    return np.frombuffer(entry.pixels, np.uint8).reshape(entry.shape)


def _to_frame(header: dict[str, Any], rows: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    classes, probabilities = header["classes"], rows["probabilities"]
    statistic_names = [
        name for name, *_ in header["columns"] if name not in ("time", "probabilities", *KEY_COLUMNS)
    ]
    return pd.DataFrame(
        {
            "request_id": rows["request_id"].astype("U64"),
            "index": rows["index"],
            "time": pd.to_datetime(rows["time"], unit="s", utc=True),
            "worker": header["worker"],
            "version": header["version"],
            "predicted_label": np.array(classes)[probabilities.argmax(1)],
            **{f"p_{name}": probabilities[:, column] for column, name in enumerate(classes)},
            **{name: rows[name] for name in statistic_names},
        }
    )


def _read_tables(folder: Path, kind: str) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Yield the header and the complete rows of every file; skip unreadable files with a warning."""
    for file, content in _read_files(folder, kind):
        header_line, newline, body = content.partition(b"\n")
        if not newline:
            continue  # just created
        try:
            header = json.loads(header_line)
            dtype = _parse_row_dtype(header)
            rows = np.frombuffer(body, dtype, len(body) // dtype.itemsize)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            logger.warning("%s is not a prediction log file: %s", file, error)
            continue
        yield header, rows


def _parse_row_dtype(header: dict[str, Any]) -> np.dtype[Any]:
    """Parse the dtype of one row."""
    return np.dtype([(name, type_code, *map(tuple, shape)) for name, type_code, *shape in header["columns"]])


def _read_files(folder: Path, kind: str) -> Iterator[tuple[Path, bytes]]:
    """Yield each file with its content, oldest first; skip files that are deleted meanwhile."""
    for file in sorted(folder.glob(f"{kind}-*")):
        with suppress(FileNotFoundError):
            yield file, file.read_bytes()
