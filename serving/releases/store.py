"""The releases of one model name: a folder for each version, and the ledger.

Flows write the releases, the service reads them.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relearn.model.checksums import compute_sha256, read_verified
from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.file_lock import locked
from relearn.model.files import atomic_folder
from relearn.model.home import Home
from relearn.serving.releases.ledger import CHECKSUMMED_FILES, Ledger, Release

if TYPE_CHECKING:  # import torch, which a start does not need
    from relearn.model.inference.classifier import Classifier
    from relearn.model.inference.model_card import ModelCard

LEDGER_FOLDER = "ledger"
LOCK_TIMEOUT = 30.0  # seconds; the lock is held for some 10 ms, never for a training


class ReleaseStore:
    """The releases under `root`, which is `home.releases_dir(name)`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger(root / LEDGER_FOLDER)

    def version_folder(self, version: str) -> Path:
        """Return the folder of the classifier of `version`; it need not exist."""
        return self.root / version

    def reference_folder(self, fingerprint: str) -> Path:
        """Return the folder of the reference images with this fingerprint; it need not exist."""
        return self.root / "reference" / fingerprint[:16]

    def list_versions(self) -> list[str]:
        """Return the versions with a stored classifier, oldest first."""
        return sorted((path.parent.name for path in self.root.glob("[0-9]*/card.json")), key=int)

    def read_live(self) -> Release | None:
        """Return the live release: that of the last decision in the ledger; None before the first one.

        Raises `CorruptDataError` if an entry of the ledger was changed or is missing.
        """
        last_entry = self.ledger.read_last()
        return last_entry.live if last_entry else None

    def find_release(self, version: str) -> Release | None:
        """Return the newest release of `version` in the ledger, None if it was never live."""
        entries = reversed(self.ledger.read_entries())
        return next((entry.live for entry in entries if entry.live and entry.live.version == version), None)

    def read_card(self, version: str) -> "ModelCard":
        """Read the card of `version`; raise `CorruptDataError` unless it is the one that the ledger names."""
        release = self.find_release(version)
        return read_released_card(self.version_folder(version), release.sha256 if release else None)

    def load(self, version: str) -> "Classifier":
        """Load the classifier of `version`; raise `CorruptDataError` unless the ledger names its files."""
        from relearn.model.inference.classifier import Classifier

        return Classifier.load(self.version_folder(version), self.read_card(version))

    def add_version(self, version: str, classifier_folder: Path) -> dict[str, str]:
        """Store a verified copy of the classifier and its golden requests as `version`.

        Returns the value of `Release.sha256`. Atomic and idempotent. Raises `CorruptDataError` if another
        classifier has this version, or if `classifier_folder` is damaged.
        """
        from relearn.model.inference.classifier import Classifier
        from relearn.model.inference.model_card import CARD_FILE
        from relearn.serving.releases.golden import Golden

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
        """Hold the lock, between processes, on the versions: nobody else adds or deletes one meanwhile.

        The ledger needs none. Raises `InfrastructureError` after
        `LOCK_TIMEOUT` seconds.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        busy_message = (
            f"another process has held the release lock of {self.root.name} for {LOCK_TIMEOUT:g} seconds"
        )
        with locked(self.root / ".lock", busy_message, LOCK_TIMEOUT):
            yield


def read_released_card(folder: Path, sha256: Mapping[str, str] | None) -> "ModelCard":
    """Read the card in `folder`; `sha256` are the digests that the ledger names, None if it names none.

    The card contains the digests of the classifier's other files.
    """
    from relearn.model.inference.model_card import CARD_FILE, parse_card, read_card

    if sha256 is None:
        return read_card(folder)
    return parse_card(read_verified(folder / CARD_FILE, sha256.get(CARD_FILE, "")), folder / CARD_FILE)


def list_released_names(home: Home) -> list[str]:
    """Return the model names in `home` that have a ledger."""
    paths = (home.root / "releases").glob(f"*/{LEDGER_FOLDER}*")  # that of an older format is a file
    return sorted({path.parent.name for path in paths})


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
    release = ReleaseStore(home.releases_dir(name)).read_live()
    if release is None:
        raise NotFoundError(f"nothing is live as {name!r}: every candidate was rejected")
    return name, release
