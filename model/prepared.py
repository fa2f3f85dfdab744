"""Split data on disk: prepared once, memory-mapped ever after."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock

from relearn.model import atomic
from relearn.model.additions import Additions, Joined, join
from relearn.model.config import TrainConfig
from relearn.model.datasets import Dataset, LabelledImages, Style, files, load, source
from relearn.model.errors import DataError, IntegrityError, MachineError
from relearn.model.home import Home
from relearn.model.quality import Finding, inspect
from relearn.model.splits import Splits, split

FORMAT = 3  # of the folder and of everything that leads to it: raised whenever either changes
SETTINGS = ("size", "channels", "test_share", "validation_share")
PARTS = ("train", "validation", "test")
NOTHING = Additions()
CARD = "card.json"


@dataclass(frozen=True)
class Prepared:
    """A folder with images and labels of each split as .npy, and what is known of them in `card`.

    `card` holds name, source, classes, style, shape, fingerprint, what joined it, counts (images of each
    class in each split), findings, and the bytes and SHA-256 of each file. `rebuilt` says why an earlier
    folder was replaced.
    """

    folder: Path
    card: dict[str, Any]
    rebuilt: str | None = None

    @property
    def name(self) -> str:
        return str(self.card["name"])

    @property
    def source(self) -> str:
        return str(self.card["source"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole dataset's content, before it was split, and of what additions changed."""
        return str(self.card["fingerprint"])

    @property
    def additions(self) -> Joined | None:
        """What joined the dataset from elsewhere; None where nothing was to."""
        told = self.card["additions"]
        return None if told is None else Joined.model_validate(told)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.card["classes"])

    @property
    def style(self) -> Style:
        return cast(Style, self.card["style"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.card["shape"]
        return channels, height, width

    @property
    def findings(self) -> list[Finding]:
        return [Finding(**finding) for finding in self.card["findings"]]

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
    folder = home.prepared / _key(config, home, additions)
    try:
        return _verified(open_prepared(folder))
    except IntegrityError:
        pass
    try:
        home.prepared.mkdir(parents=True, exist_ok=True)
        with FileLock(home.prepared / f".{folder.name}.lock"):
            return _open_or_write(config, home, additions)
    except OSError as error:
        raise MachineError(f"cannot prepare the data in {home.prepared}: {error.strerror or error}") from None


def open_prepared(folder: Path) -> Prepared:
    """The data prepared in `folder`; IntegrityError where files are missing or not as long as written.

    `prepare` has looked at their content too.
    """
    try:
        card = json.loads((folder / CARD).read_text())
        lengths = {name: (folder / name).stat().st_size for name in card["files"]}
        written = {name: file["bytes"] for name, file in card["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder / CARD} and its files are not whole: {error}") from None
    for name, length in lengths.items():
        if length != written[name]:
            raise IntegrityError(f"{folder / name} has {length} bytes, written were {written[name]}")
    return Prepared(folder, card)


def _verified(prepared: Prepared) -> Prepared:
    """Raise `IntegrityError` where a file is not what was written; MNIST takes 0.04 s, a GB 0.8 s."""
    for name, file in prepared.card["files"].items():
        if _digest(prepared.folder / name) != file["sha256"]:
            raise IntegrityError(f"{prepared.folder / name} is not what was written: its SHA-256 differs")
    return prepared


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_or_write(config: TrainConfig, home: Home, additions: Additions) -> Prepared:
    folder, damage = home.prepared / _key(config, home, additions), None
    try:
        return _verified(open_prepared(folder))  # another process was faster
    except IntegrityError as error:
        damage = str(error) if folder.exists() else None
    dataset = load(config, home)
    splits, joined = split(dataset, config.test_share, config.validation_share), None
    if additions.digest:
        splits, joined = join(dataset, splits, additions, config.validation_share)
    findings = inspect(dataset, splits)
    if joined and joined.refused:
        told = "images that were to join are of another class or shape, or test images"
        findings.append(Finding("warning", "additions", told, joined.refused))
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise DataError("; ".join(f"{dataset.source}: {error}" for error in errors))
    folder = home.prepared / _key(config, home, additions)  # a download has brought the files
    card = _write(folder, dataset, splits, findings, joined)
    return Prepared(folder, card, damage)


def _write(
    folder: Path, dataset: Dataset, splits: Splits, findings: list[Finding], joined: Joined | None
) -> dict[str, Any]:
    card = {
        "format": FORMAT,
        "name": dataset.name,
        "source": dataset.source,
        "classes": dataset.classes,
        "style": dataset.style,
        "shape": dataset.shape,
        "fingerprint": _fingerprint(dataset, joined),
        "additions": joined and joined.model_dump(),
        "counts": {
            part: np.bincount(getattr(splits, part).labels, minlength=len(dataset.classes)).tolist()
            for part in PARTS
        },
        "findings": [asdict(finding) for finding in findings],
    }
    with atomic.folder(folder) as temporary:
        for part in PARTS:
            np.save(temporary / f"{part}_images.npy", getattr(splits, part).images)
            np.save(temporary / f"{part}_labels.npy", getattr(splits, part).labels)
        card["files"] = {
            file.name: {"bytes": file.stat().st_size, "sha256": _digest(file)}
            for file in sorted(temporary.iterdir())
        }
        text = json.dumps(card, indent=2, ensure_ascii=False)
        (temporary / CARD).write_text(text)
    return cast(dict[str, Any], json.loads(text))


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
