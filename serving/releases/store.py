"""The releases of one model name: a folder for each version, the ledger, and the live pointer.

The pointer is derived from the ledger. Flows write the releases, the service reads them.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relearn.model.checksums import compute_sha256
from relearn.model.errors import CorruptDataError, InfrastructureError, NotFoundError
from relearn.model.file_lock import locked
from relearn.model.files import atomic_file, atomic_folder
from relearn.model.home import Home
from relearn.serving.logger import logger
from relearn.serving.releases.golden import GOLDEN_FILE, Golden
from relearn.serving.releases.ledger import Entry, Ledger, Release

LEDGER_FILE, POINTER_FILE = "ledger.jsonl", "current.json"
CHECKSUMMED_FILES = ("card.json", GOLDEN_FILE)  # the card holds the checksums of the other files
LOCK_TIMEOUT = 30.0  # seconds; the lock is held for one decision (about 10 ms), never for a training


class ReleaseStore:
    """The releases under `root`, which is `home.releases_dir(name)`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(root / LEDGER_FILE)

    def version_folder(self, version: str) -> Path:
        """Return the folder of the classifier of `version`; it need not exist."""
        return self.root / version

    def reference_folder(self, fingerprint: str) -> Path:
        """Return the folder of the reference images with this fingerprint; it need not exist."""
        return self.root / "reference" / fingerprint[:16]

    def list_versions(self) -> list[str]:
        """Return the versions with a stored classifier, oldest first."""
        return sorted((path.parent.name for path in self.root.glob("[0-9]*/card.json")), key=int)

    def read_current(self) -> Release | None:
        """Read the live pointer: None before the first release, `CorruptDataError` if it is unreadable."""
        path = self.root / POINTER_FILE
        try:
            return Release.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise CorruptDataError(f"{path} is not a live pointer: {str(error).splitlines()[0]}") from None

    def add_version(self, version: str, classifier_folder: Path) -> dict[str, str]:
        """Store a verified copy of the classifier and its golden requests as `version`.

        Returns the value of `Release.sha256`. Atomic and idempotent. Raises `CorruptDataError` if another
        classifier has this version, or if `classifier_folder` is damaged.
        """
        from relearn.model.inference.classifier import Classifier
        from relearn.model.inference.model_card import CARD_FILE

        folder = self.version_folder(version)
        try:
            Classifier.load(folder)
            Golden.load(folder)
        except (NotFoundError, CorruptDataError):  # missing or damaged
            with atomic_folder(folder) as temporary_folder:
                shutil.copytree(classifier_folder, temporary_folder, dirs_exist_ok=True)
                Classifier.load(temporary_folder)
                Golden.load(temporary_folder)
        if (folder / CARD_FILE).read_bytes() != (classifier_folder / CARD_FILE).read_bytes():
            raise CorruptDataError(f"{folder} holds another classifier")
        return {name: compute_sha256(folder / name) for name in CHECKSUMMED_FILES}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock for one decision; raise `InfrastructureError` after `LOCK_TIMEOUT`."""
        self.root.mkdir(parents=True, exist_ok=True)
        busy_message = (
            f"another process has held the release lock of {self.root.name} for {LOCK_TIMEOUT:g} seconds"
        )
        with locked(self.root / ".lock", busy_message, LOCK_TIMEOUT):
            yield

    def append_decision(self, **decision: Any) -> Entry:
        """Append a decision to the ledger and update the live pointer.

        The new pointer is written before the decision and renamed after it: on a full disk both stay as
        they were.
        """
        with self._update_pointer_after(decision["live"]):
            return self.ledger.append(**decision)

    def repair_pointer(self) -> str | None:
        """Make the live pointer agree with the ledger; return what was wrong with the pointer, or None."""
        if self._describe_mismatch() is None:  # the usual case; it needs no write access
            return None
        with self.locked():
            mismatch = self._describe_mismatch()
            if mismatch is None:  # another process was about to update it
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
            return f"was unreadable, {expectation}"
        if current_release == expected_release:
            return None
        return (
            f"named {f'version {current_release.version}' if current_release else 'nothing'}, {expectation}"
        )

    @contextmanager
    def _update_pointer_after(self, release: Release | None) -> Iterator[None]:
        """Make the live pointer name `release` after a block without an error."""
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
    """Return the model names in `home` that have a ledger."""
    return sorted(path.parent.name for path in (home.root / "releases").glob(f"*/{LEDGER_FILE}"))


def resolve_name(home: Home, name: str | None) -> str:
    """Return `name`, by default the only released one; `NotFoundError` lists the released names."""
    released_names = list_released_names(home)
    if not released_names:
        raise NotFoundError("nothing released yet: run `relearn run`")
    if name is None and len(released_names) > 1:
        raise NotFoundError(
            "several models are released, choose one: "
            f"--model-name {' or --model-name '.join(released_names)}"
        )
    if name is not None and name not in released_names:
        raise NotFoundError(f"nothing released as {name!r}; released: {', '.join(released_names)}")
    return name or released_names[0]


def get_current_release(home: Home, name: str | None = None) -> tuple[str, Release]:
    """Return the model name and its live release; `name` is by default the only one released in `home`.

    Raises `NotFoundError` if nothing is released or live.
    """
    name = resolve_name(home, name)
    store = ReleaseStore(home.releases_dir(name))
    if repair_message := store.repair_pointer():
        logger.warning(repair_message)
    release = store.read_current()
    if release is None:
        raise NotFoundError(f"nothing is live as {name!r}: every candidate was rejected")
    return name, release
