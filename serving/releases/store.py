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

from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError
from relearn.model.files import atomic_file, atomic_folder
from relearn.model.home import Home
from relearn.serving.releases import golden
from relearn.serving.releases.golden import Golden
from relearn.serving.releases.ledger import Entry, Ledger, Release

logger = logging.getLogger(__name__)

LEDGER_FILE, POINTER_FILE = "ledger.jsonl", "current.json"
CHECKSUMMED_FILES = ("card.json", golden.GOLDEN_FILE)  # the card vouches for the rest of the folder
LOCK_TIMEOUT = 30.0  # seconds for the lock; it is held for a decision, some 10 ms, never for a training


class ReleaseStore:
    """The releases under `root`, which is `home.releases(name)`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(root / LEDGER_FILE)

    def version_folder(self, version: str) -> Path:
        """Where the classifier of `version` lies, or would lie."""
        return self.root / version

    def reference_folder(self, fingerprint: str) -> Path:
        """Where the reference images of this fingerprint lie, or would lie."""
        return self.root / "reference" / fingerprint[:16]

    def list_versions(self) -> list[str]:
        """Those whose classifier is kept, oldest first."""
        return sorted((path.parent.name for path in self.root.glob("[0-9]*/card.json")), key=int)

    def read_current(self) -> Release | None:
        """What the pointer means; None before the first release, `IntegrityError` where it is unreadable."""
        path = self.root / POINTER_FILE
        try:
            return Release.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise CorruptDataError(f"{path} is no live pointer: {str(error).splitlines()[0]}") from None

    def add_version(self, version: str, classifier_folder: Path) -> dict[str, str]:
        """Keep a verified copy of the classifier and its golden answers as `version`.

        Returns what a `Release` has as digests. Whole or not at all, and doing it again changes nothing.
        Raises `IntegrityError` where another classifier has this version, or the folder is unsound.
        """
        from relearn.model.inference.classifier import Classifier
        from relearn.model.inference.model_card import CARD_FILE

        folder = self.version_folder(version)
        try:
            Classifier.load(folder)
            Golden.load(folder)
        except (NotFoundError, CorruptDataError):  # it is not there, or damaged
            with atomic_folder(folder) as temporary_folder:
                shutil.copytree(classifier_folder, temporary_folder, dirs_exist_ok=True)
                Classifier.load(temporary_folder)
                Golden.load(temporary_folder)
        if (folder / CARD_FILE).read_bytes() != (classifier_folder / CARD_FILE).read_bytes():
            raise CorruptDataError(f"{folder} holds another classifier")
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in CHECKSUMMED_FILES}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One decision at a time; the lock of a process that dies is free. `MachineError` after 30 s."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.root / ".lock", timeout=LOCK_TIMEOUT):
                yield
        except Timeout:
            raise InfrastructureError(
                f"another process has been deciding about {self.root.name} for {LOCK_TIMEOUT:g} seconds"
            ) from None

    def append_decision(self, **decision: Any) -> Entry:
        """Write a decision to the ledger, and let the pointer mean what is live after it.

        The pointer is written before, and takes its place after: on a full disk nothing is decided.
        """
        with self._update_pointer_after(decision["live"]):
            return self.ledger.append(**decision)

    def repair_pointer(self) -> str | None:
        """Bring the pointer into agreement with the ledger; says what was wrong with it, None for nothing."""
        if self._describe_mismatch() is None:  # as nearly always, and then nothing has to be writable
            return None
        with self.locked():
            mismatch = self._describe_mismatch()
            if mismatch is None:  # another process was deciding just then
                return None
            last_entry = self.ledger.read_last()
            with self._update_pointer_after(last_entry.live if last_entry else None):
                pass
        return f"the live pointer of {self.root.name} {mismatch}"

    def _describe_mismatch(self) -> str | None:
        last_entry = self.ledger.read_last()
        expected_release = last_entry.live if last_entry else None
        expectation = f"the ledger says {expected_release.version if expected_release else 'nothing is live'}"
        try:
            current_release = self.read_current()
        except CorruptDataError:
            return f"could not be read, {expectation}"
        if current_release == expected_release:
            return None
        return (
            f"meant {f'version {current_release.version}' if current_release else 'nothing'}, {expectation}"
        )

    @contextmanager
    def _update_pointer_after(self, release: Release | None) -> Iterator[None]:
        """Let the pointer mean `release` once the block has ended well."""
        path = self.root / POINTER_FILE
        if release is None:
            yield
            path.unlink(missing_ok=True)
            return
        try:
            with atomic_file(path) as temporary_file:
                temporary_file.write_bytes(release.model_dump_json(indent=2).encode() + b"\n")
                yield
        except OSError as error:
            raise InfrastructureError(f"{path} cannot be written: {error.strerror}") from None


def list_released_names(home: Home) -> list[str]:
    """The names under which something has been decided in `home`."""
    return sorted(path.parent.name for path in (home.root / "releases").glob(f"*/{LEDGER_FILE}"))


def resolve_name(home: Home, name: str | None) -> str:
    """`name`, or the only one there is; raises `NotFoundError`, which tells the names there are."""
    released_names = list_released_names(home)
    if not released_names:
        raise NotFoundError("nothing released yet: run `relearn run`")
    if name is None and len(released_names) > 1:
        raise NotFoundError(
            f"several names are released, choose one: --model-name {' or --model-name '.join(released_names)}"
        )
    if name is not None and name not in released_names:
        raise NotFoundError(f"nothing released as {name!r}; released: {', '.join(released_names)}")
    return name or released_names[0]


def get_current_release(home: Home, name: str | None = None) -> tuple[str, Release]:
    """The live release under `name`; without a name, that of the only one released in `home`."""
    name = resolve_name(home, name)
    store = ReleaseStore(home.releases_dir(name))
    if repair_message := store.repair_pointer():
        logger.warning(repair_message)
    release = store.read_current()
    if release is None:
        raise NotFoundError(f"nothing is live as {name!r}: every candidate was rejected")
    return name, release
