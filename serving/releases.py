"""The releases of one name: a folder a version, the ledger, and the live pointer derived from it.

Flows write through this, the service reads it.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from relearn.model import atomic
from relearn.model.errors import IntegrityError, MachineError, NotFoundError
from relearn.model.home import Home
from relearn.serving import golden
from relearn.serving.golden import Golden
from relearn.serving.ledger import Entry, Ledger, Release

logger = logging.getLogger(__name__)

LEDGER, POINTER = "ledger.jsonl", "live.json"
VOUCHED = ("card.json", golden.FILE)  # the card vouches for the rest of the folder
PATIENCE = 30.0  # seconds for the lock; it is held for a decision, some 10 ms, never for a training


class Releases:
    """The releases under `root`, which is `home.releases(name)`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(root / LEDGER)

    def folder(self, version: str) -> Path:
        """Where the classifier of `version` lies, or would lie."""
        return self.root / version

    def reference(self, fingerprint: str) -> Path:
        """Where the reference images of this fingerprint lie, or would lie."""
        return self.root / "reference" / fingerprint[:16]

    def versions(self) -> list[str]:
        """Those whose classifier is kept, oldest first."""
        return sorted((path.parent.name for path in self.root.glob("[0-9]*/card.json")), key=int)

    def live(self) -> Release | None:
        """What the pointer means; None before the first release, `IntegrityError` where it is unreadable."""
        path = self.root / POINTER
        try:
            return Release.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise IntegrityError(f"{path} is no live pointer: {str(error).splitlines()[0]}") from None

    def keep(self, version: str, classifier_folder: Path) -> dict[str, str]:
        """Keep a verified copy of the classifier and its golden answers as `version`.

        Returns what a `Release` has as digests. Whole or not at all, and doing it again changes nothing.
        Raises `IntegrityError` where another classifier has this version, or the folder is unsound.
        """
        from relearn.model.classifier import CARD, Classifier  # torch, which reading the pointer does without

        folder = self.folder(version)
        try:
            Classifier.load(folder)
            Golden.load(folder)
        except (NotFoundError, IntegrityError):  # it is not there, or damaged
            with atomic.folder(folder) as temporary:
                shutil.copytree(classifier_folder, temporary, dirs_exist_ok=True)
                Classifier.load(temporary)
                Golden.load(temporary)
        if (folder / CARD).read_bytes() != (classifier_folder / CARD).read_bytes():
            raise IntegrityError(f"{folder} holds another classifier")
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in VOUCHED}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One decision at a time; the lock of a process that dies is free. `MachineError` after 30 s."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / ".lock", timeout=PATIENCE):
                yield
        except Timeout:
            raise MachineError(
                f"another process has been deciding about {self.root.name} for {PATIENCE:g} seconds"
            ) from None

    def record(self, **decision: Any) -> Entry:
        """Write a decision to the ledger, and let the pointer mean what is live after it.

        The pointer is written before, and takes its place after: on a full disk nothing is decided.
        """
        with self._pointing(decision["live"]):
            return self.ledger.append(**decision)

    def settle(self) -> str | None:
        """Bring the pointer into agreement with the ledger; says what was wrong with it, None for nothing."""
        if self._astray() is None:  # as nearly always, and then nothing has to be writable
            return None
        with self.locked():
            told = self._astray()
            if told is None:  # another process was deciding just then
                return None
            last = self.ledger.last()
            with self._pointing(last.live if last else None):
                pass
        return f"the live pointer of {self.root.name} {told}"

    def _astray(self) -> str | None:
        last = self.ledger.last()
        truth = last.live if last else None
        says = f"the ledger says {truth.version if truth else 'nothing is live'}"
        try:
            meant = self.live()
        except IntegrityError:
            return f"could not be read, {says}"
        if meant == truth:
            return None
        return f"meant {f'version {meant.version}' if meant else 'nothing'}, {says}"

    @contextmanager
    def _pointing(self, release: Release | None) -> Iterator[None]:
        """Let the pointer mean `release` once the block has ended well."""
        path = self.root / POINTER
        if release is None:
            yield
            path.unlink(missing_ok=True)
            return
        try:
            with atomic.file(path) as temporary:
                temporary.write_bytes(release.model_dump_json(indent=2).encode() + b"\n")
                yield
        except OSError as error:
            raise MachineError(f"{path} cannot be written: {error.strerror}") from None


def names(home: Home) -> list[str]:
    """The names under which something has been decided in `home`."""
    return sorted(path.parent.name for path in (home.root / "releases").glob(f"*/{LEDGER}"))


def chosen(home: Home, name: str | None) -> str:
    """`name`, or the only one there is; raises `NotFoundError`, which tells the names there are."""
    there = names(home)
    if not there:
        raise NotFoundError("nothing released yet: run `relearn run`")
    if name is None and len(there) > 1:
        raise NotFoundError(f"several names are released, choose one: --name {' or --name '.join(there)}")
    if name is not None and name not in there:
        raise NotFoundError(f"nothing released as {name!r}; released: {', '.join(there)}")
    return name or there[0]


def released(home: Home, name: str | None = None) -> tuple[str, Release]:
    """The live release under `name`; without a name, that of the only one released in `home`."""
    name = chosen(home, name)
    releases = Releases(home.releases(name))
    if told := releases.settle():
        logger.warning(told)
    release = releases.live()
    if release is None:
        raise NotFoundError(f"nothing is live as {name!r}: every candidate was rejected")
    return name, release
