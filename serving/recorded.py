"""What `records` has kept, for pandas: predictions with the truth that was told of them, and images."""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from relearn.serving.records import Feedback

if TYPE_CHECKING:
    import pandas as pd  # a server does without

logger = logging.getLogger(__name__)

Which = tuple[str, int]  # an image: the id of its request, and its index in it
WHICH = ("request_id", "index")


def read(folder: Path) -> "pd.DataFrame":
    """One row for each image that was predicted, oldest first; an empty table where there is no record.

    Columns: `request_id`, `index` of the image in its request, `time` (UTC), `worker`, `version`, `label`,
    `p_CLASS` for every class, the traits of `relearn.model.traits`, and `truth`: the label told last,
    NaN where none was. A class that a version does not know is NaN. Takes 3 s for a million rows.
    """
    import pandas as pd

    tables = [_table(head, rows) for head, rows in _tables(folder, "predictions")]
    if not tables:
        return pd.DataFrame(columns=[*WHICH, "time", "worker", "version", "label", "truth"])
    frame = pd.concat(tables, ignore_index=True).sort_values("time", kind="stable", ignore_index=True)
    truths = {(one.request_id, one.index): one.label for one in feedback(folder)}
    frame["truth"] = pd.Series(None, frame.index, dtype="str")
    told = frame.loc[frame["request_id"].isin({request_id for request_id, _ in truths})]
    # Of requests that a client gave the same id, the last one is meant.
    rows = dict(zip(zip(told["request_id"], told["index"], strict=True), told.index, strict=True))
    known = [which for which in truths if which in rows]
    frame.loc[[rows[which] for which in known], "truth"] = [truths[which] for which in known]
    return frame


def feedback(folder: Path) -> list[Feedback]:
    """All that was told, oldest first: of several on the same image, the last one counts."""
    lines = [line for _, content in _files(folder, "feedback") for line in content.split(b"\n")]
    told = []
    for line in lines:
        with suppress(msgspec.DecodeError, ValueError):  # the end of a file being written, or none of ours
            one = msgspec.json.decode(line, type=Feedback)
            sent_with(one)
            told.append(one)
    return sorted(told, key=lambda one: one.time)


def counts(folder: Path) -> tuple[int, int]:
    """How many predictions and how much feedback are kept, from the sizes of the files: at once."""
    rows = 0
    for file in folder.glob("predictions-*"):
        with suppress(OSError, ValueError), file.open("rb") as opened:  # it may go, or be begun, just now
            line = opened.readline()
            rows += (file.stat().st_size - len(line)) // _dtype(json.loads(line)).itemsize
    return rows, sum(content.count(b"\n") for _, content in _files(folder, "feedback"))


def images(folder: Path) -> dict[Which, np.ndarray]:
    """Every image that was kept, or came with feedback: uint8 (channels, height, width)."""
    kept = {
        (row["request_id"].decode(), int(row["index"])): row["image"].copy()
        for _, rows in _tables(folder, "images")
        for row in rows
    }
    sent = [((one.request_id, one.index), sent_with(one)) for one in feedback(folder)]
    return kept | {which: image for which, image in sent if image is not None}


def sent_with(one: Feedback) -> np.ndarray | None:
    """The image that came with the feedback: uint8 (channels, height, width)."""
    if one.pixels is None or one.shape is None:
        return None
    return np.frombuffer(one.pixels, np.uint8).reshape(one.shape)


def _table(head: dict[str, Any], rows: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    classes, probabilities = head["classes"], rows["probabilities"]
    measured = [name for name, *_ in head["columns"] if name not in ("time", "probabilities", *WHICH)]
    return pd.DataFrame(
        {
            "request_id": rows["request_id"].astype("U64"),
            "index": rows["index"],
            "time": pd.to_datetime(rows["time"], unit="s", utc=True),
            "worker": head["worker"],
            "version": head["version"],
            "label": np.array(classes)[probabilities.argmax(1)],
            **{f"p_{name}": probabilities[:, column] for column, name in enumerate(classes)},
            **{name: rows[name] for name in measured},
        }
    )


def _tables(folder: Path, kind: str) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Head and whole rows of every file; one that no worker wrote so is told and passed over."""
    for file, content in _files(folder, kind):
        line, end, body = content.partition(b"\n")
        if not end:
            continue  # it is being begun
        try:
            head = json.loads(line)
            dtype = _dtype(head)
            rows = np.frombuffer(body, dtype, len(body) // dtype.itemsize)
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            logger.warning("%s is no file of records: %s", file, error)
            continue
        yield head, rows


def _dtype(head: dict[str, Any]) -> np.dtype[Any]:
    """Of one row."""
    return np.dtype([(name, form, *map(tuple, shape)) for name, form, *shape in head["columns"]])


def _files(folder: Path, kind: str) -> Iterator[tuple[Path, bytes]]:
    """Each file and its content, oldest first; one may be removed meanwhile."""
    for file in sorted(folder.glob(f"{kind}-*")):
        with suppress(FileNotFoundError):
            yield file, file.read_bytes()
