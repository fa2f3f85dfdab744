"""What was asked and answered, and what was said about it: kept off the path of requests.

A folder holds what was recorded under one name, by all workers of all its servers. Its files are tables
of rows of a fixed size behind one line of JSON that tells version, classes and columns (`predictions-…`,
`images-…`), or lines of JSON (`feedback-…`). `relearn.serving.recorded` reads them into pandas.

Why not a format that has a name: one record costs 0.08 µs as a row, 0.14 µs in Arrow IPC and 2.8 µs as a
line of JSON, which at 30,000 images a second would be a tenth of a core; and it takes 140 bytes as a row
and 350 as JSON, whereas Arrow takes 1,432 bytes for a lone record, and most come alone where requests
are few. A row that a kill tore is told by its size. (10 classes; 1,200 records at a time; one of 2 cores.)
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np

from relearn.model.errors import MachineError
from relearn.model.traits import TRAITS, measure
from relearn.serving.segments import Segments
from relearn.serving.settings import ServeConfig

if TYPE_CHECKING:
    from relearn.serving.live import Live

logger = logging.getLogger("bentoml.relearn")  # BentoML's server prints what is logged under its name

EVERY = 0.25  # seconds from a prediction to its record, and the most that a kill loses
WAITING = 2**25  # bytes of images and probabilities that may wait; 0.25 s at 40,000 images a second take 2^23
# Feedback is rare and dear, and images are large: neither may push out the other, nor the predictions.
SHARES = {"predictions": 0.5, "images": 0.25, "feedback": 0.25}
IDENTITY = [("request_id", "S64"), ("index", "<u4")]
MEASURED = [(name, "<f4") for name in TRAITS]


class Answered(NamedTuple):
    """One request: images uint8 (n, channels, height, width), probabilities float32 (n, classes)."""

    request_id: str
    time: float
    live: "Live"
    images: np.ndarray
    probabilities: np.ndarray


class Feedback(msgspec.Struct):
    """What somebody says that one image shows; the image itself, pixels of `shape`, where they sent it."""

    request_id: str
    index: Annotated[int, msgspec.Meta(ge=0)]
    time: Annotated[float, msgspec.Meta(ge=0, lt=2**37)]  # the year 6325; later ones pandas cannot tell
    label: str
    shape: tuple[int, int, int] | None = None
    pixels: bytes | None = None


class Records:
    """Those of one worker; `lost` is called with how many predictions were not, or not wholly, recorded."""

    def __init__(self, folder: Path, config: ServeConfig, worker: int, lost: Callable[[int], None]) -> None:
        self.folder, self.worker, self.keep_images = folder, worker, config.keep_images
        self.segments = {
            kind: Segments(folder, kind, int(share * config.records_mb * 1_000_000))
            for kind, share in SHARES.items()
        }
        self._lost = lost
        self._trouble = ""
        self._queue: list[Answered] = []
        self._waiting = 0
        self._queued, self._told = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write_for_ever, name="records", daemon=True)
        self._thread.start()

    def add(self, request_id: str, live: "Live", images: np.ndarray, probabilities: np.ndarray) -> None:
        """Record one request soon; costs 1 µs, and waits for nothing."""
        size = images.nbytes + probabilities.nbytes
        with self._queued:
            fits = self._waiting + size <= WAITING
            if fits:
                self._queue.append(Answered(request_id, time.time(), live, images, probabilities))
                self._waiting += size
        if not fits:
            self._lost(len(images))

    def told(self, feedback: Feedback) -> None:
        """Keep `feedback`; returns when it is kept, raises `MachineError` where it cannot be."""
        try:
            with self._told:
                self.segments["feedback"].append(b"", msgspec.json.encode(feedback) + b"\n")
        except OSError as error:
            logger.error("feedback cannot be kept: %s", error)
            raise MachineError(f"feedback cannot be kept: {error}", "not_recorded") from None

    def keeps(self, request_id: str) -> bool:
        """Whether the images of this request are kept where it is recorded: every worker says alike."""
        if not self.keep_images:
            return False
        number = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big")
        return number < self.keep_images * 2**64

    def close(self) -> None:
        """Write what waits, unless the disk takes longer than a stopping server has."""
        self._ending.set()
        self._thread.join(2)
        if not self._thread.is_alive():
            for segments in self.segments.values():
                segments.close()

    def _write_for_ever(self) -> None:
        last = False
        while not last:
            last = self._ending.wait(EVERY)
            with self._queued:
                queue, self._queue, self._waiting = self._queue, [], 0
            for live, answered in groupby(queue, lambda one: one.live):
                self._write(live, list(answered))

    def _write(self, live: "Live", answered: list[Answered]) -> None:
        """What does not go well is told by its number, and once in the log; it ends nothing."""
        kept = [one for one in answered if self.keeps(one.request_id)]
        try:
            self._append("predictions", live, predictions(answered))
            if kept:
                self._append("images", live, images(kept))
        except Exception as error:
            self._lost(sum(len(one.images) for one in answered))
            self._tell(f"records cannot be written, predictions are still answered: {error}", error)
        else:
            self._tell("")

    def _append(self, kind: str, live: "Live", rows: np.ndarray) -> None:
        segments = self.segments[kind]
        head = {
            "version": live.version,
            "worker": self.worker,
            "classes": live.classifier.card.classes,
            "columns": rows.dtype.descr,
        }
        line = json.dumps(head).encode() + b"\n"
        size = max(segments.most // rows.itemsize, 1)
        for start in range(0, len(rows), size):
            segments.append(line, rows[start : start + size].tobytes())

    def _tell(self, trouble: str, error: Exception | None = None) -> None:
        if trouble and not self._trouble:
            logger.error(trouble, exc_info=None if isinstance(error, OSError) else error)
        elif self._trouble and not trouble:
            logger.warning("records are written again")
        self._trouble = trouble


def predictions(answered: list[Answered]) -> np.ndarray:
    """A row for each image: which one, when, what was answered, what drift is tested by."""
    probabilities = np.concatenate([one.probabilities for one in answered])
    traits = measure(np.concatenate([one.images for one in answered]))
    rows = _rows(answered, [("time", "<f8"), ("probabilities", "<f4", probabilities.shape[1:]), *MEASURED])
    rows["time"] = np.repeat([one.time for one in answered], [len(one.images) for one in answered])
    rows["probabilities"] = probabilities
    for column, name in enumerate(TRAITS):
        rows[name] = traits[:, column]
    return rows


def images(answered: list[Answered]) -> np.ndarray:
    """A row for each image: which one, and its pixels."""
    rows = _rows(answered, [("image", "|u1", answered[0].images.shape[1:])])
    rows["image"] = np.concatenate([one.images for one in answered])
    return rows


def _rows(answered: list[Answered], columns: list[Any]) -> np.ndarray:
    counts = [len(one.images) for one in answered]
    rows = np.empty(sum(counts), np.dtype([*IDENTITY, *columns]))
    rows["request_id"] = np.repeat(np.array([one.request_id for one in answered], "S64"), counts)
    rows["index"] = np.concatenate([np.arange(count) for count in counts])
    return rows
