"""Split data on disk: prepared once, memory-mapped ever after."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from relearn.model import atomic
from relearn.model.additions import Additions, Joined, join
from relearn.model.config import TrainConfig
from relearn.model.datasets import Dataset, LabelledImages, Style, files, load, source
from relearn.model.errors import DataError, IntegrityError, MachineError
from relearn.model.home import Home
from relearn.model.quality import Finding, inspect
from relearn.model.splits import Splits, split

FORMAT = 4  # of the folder and of everything that leads to it: raised whenever either changes
SETTINGS = ("size", "channels", "test_share", "validation_share")
PARTS = ("train", "validation", "test")
NOTHING = Additions()
CARD = "card.json"


class Prepared(BaseModel):
    """A folder with images and labels of each split as .npy, and what is known of them, its `card.json`.

    `fingerprint` is the SHA-256 of the whole dataset's content, before it was split, and of what `additions`
    changed. `shape` is channels, height, width; `counts` has the images of each class in each split, `files`
    the SHA-256 of each file. `rebuilt` says why an earlier folder was replaced.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(exclude=True)
    rebuilt: str | None = Field(None, exclude=True)
    format: Literal[4] = 4
    name: str
    source: str
    classes: tuple[str, ...]
    style: Style
    shape: tuple[int, int, int]
    fingerprint: str
    additions: Joined | None
    counts: dict[str, list[int]]
    findings: list[Finding]
    files: dict[str, str]

    @property
    def splits(self) -> Splits:
        """Images and labels, read from disk as they are used."""
        return Splits(*map(self._part, PARTS))

    def _part(self, name: str) -> LabelledImages:
        images, labels = (
            np.load(self.folder / f"{name}_{kind}.npy", mmap_mode="c") for kind in ("images", "labels")
        )
        return LabelledImages(images, labels)


def prepare(config: TrainConfig, home: Home, additions: Additions = NOTHING) -> Prepared:
    """Load, split and check the data `config` names and what joins it, or find it prepared already.

    A folder is found again as long as the source's files (path, size, time of change), the settings of the
    data and the additions are the same; what lies damaged in its place is replaced. Two processes may
    prepare the same data at once. Raises DataError naming the first of the findings that are errors.
    """
    try:
        home.prepared.mkdir(parents=True, exist_ok=True)
        with FileLock(home.prepared / f".{_key(config, home, additions)}.lock"):
            return _open_or_write(config, home, additions)
    except OSError as error:
        raise MachineError(f"cannot prepare the data in {home.prepared}: {error.strerror or error}") from None


def open_prepared(folder: Path) -> Prepared:
    """Open the data prepared in `folder`; IntegrityError where a file is missing or not what was written.

    To compare every SHA-256 takes 0.04 s for MNIST, 0.8 s for a GB.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_bytes())
        prepared = Prepared.model_validate({**card, "folder": folder})
        changed = [name for name, digest in prepared.files.items() if _digest(folder / name) != digest]
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(f"{folder / CARD} and its files are not whole: {reason}") from None
    if changed:
        raise IntegrityError(f"{folder / changed[0]} is not what was written: its SHA-256 differs")
    return prepared


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_or_write(config: TrainConfig, home: Home, additions: Additions) -> Prepared:
    folder = home.prepared / _key(config, home, additions)
    try:
        return open_prepared(folder)
    except IntegrityError as error:
        rebuilt = str(error) if folder.exists() else None
    dataset = load(config, home)
    splits, joined = split(dataset, config.test_share, config.validation_share), None
    if additions.digest:
        splits, joined = join(dataset, splits, additions, config.validation_share)
    findings = inspect(dataset, splits)
    if joined and joined.refused:
        message = "images that were to join are of another class or shape, or test images"
        findings.append(Finding("warning", "additions", message, joined.refused))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise DataError("; ".join(f"{dataset.source}: {error}" for error in errors))
    folder = home.prepared / _key(config, home, additions)  # a download has brought the files
    with atomic.folder(folder) as temporary:
        for part in PARTS:
            np.save(temporary / f"{part}_images.npy", getattr(splits, part).images)
            np.save(temporary / f"{part}_labels.npy", getattr(splits, part).labels)
        prepared = Prepared(
            folder=folder,
            rebuilt=rebuilt,
            name=dataset.name,
            source=dataset.source,
            classes=dataset.classes,
            style=dataset.style,
            shape=dataset.shape,
            fingerprint=_fingerprint(dataset, joined),
            additions=joined,
            counts={
                part: np.bincount(getattr(splits, part).labels, minlength=len(dataset.classes)).tolist()
                for part in PARTS
            },
            findings=findings,
            files={file.name: _digest(file) for file in sorted(temporary.iterdir())},
        )
        (temporary / CARD).write_text(prepared.model_dump_json(indent=2))
    return prepared


def _fingerprint(dataset: Dataset, joined: Joined | None) -> str:
    if joined is None or not joined.digest:
        return dataset.fingerprint
    return hashlib.sha256(f"{dataset.fingerprint} {joined.digest}".encode()).hexdigest()


def _key(config: TrainConfig, home: Home, additions: Additions) -> str:
    """The dataset's name, 16 hex digits of all that its prepared form depends on, and 16 of what joins it."""
    named = source(config, home)
    stamps = [(str(file), *_stamp(file)) for file in files(config, home)]
    settings = {name: getattr(config, name) for name in SETTINGS}
    digest = hashlib.sha256(repr((FORMAT, named, stamps, settings)).encode()).hexdigest()
    joining = f"-{additions.digest[:16]}" if additions.digest else ""
    return f"{named.partition(':')[0]}-{digest[:16]}{joining}"


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
