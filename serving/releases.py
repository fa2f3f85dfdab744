"""Release folders and the live pointer of one name: flows write through this, the service reads it."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from model import atomic
from model.errors import IntegrityError, NotFoundError
from model.home import Home

POINTER = "live.json"


class Release(BaseModel):
    """One line of truth: the version that answers, its Bento, the run it comes from, since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    bento: str
    run_id: str
    published_at: AwareDatetime


class Releases:
    """The releases under `root`, which is `home.releases(name)`: a folder a version, and `live.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, version: str) -> Path:
        """Where the classifier of `version` lies, or would lie."""
        return self.root / version

    def live(self) -> Release | None:
        """What is live now; None before the first release, `IntegrityError` for an unreadable pointer."""
        path = self.root / POINTER
        try:
            return Release.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            raise IntegrityError(f"{path} is no live pointer: {str(error).splitlines()[0]}") from None

    def publish(self, version: str, classifier_folder: Path, bento: str, run_id: str) -> Release:
        """Keep a verified copy of the classifier as `version`, and let the pointer mean it.

        Both writes are whole or not at all, and doing it again changes nothing but the pointer's time.
        Raises `IntegrityError` where another classifier has this version, or the folder is unsound.
        """
        from model.classifier import CARD, Classifier  # torch, which reading the pointer does without

        folder = self.folder(version)
        if not folder.exists():
            with atomic.folder(folder) as temporary:
                shutil.copytree(classifier_folder, temporary, dirs_exist_ok=True)
                Classifier.load(temporary)
        elif (folder / CARD).read_bytes() != (classifier_folder / CARD).read_bytes():
            raise IntegrityError(f"{folder} holds another classifier")
        release = Release(version=version, bento=bento, run_id=run_id, published_at=datetime.now(UTC))
        atomic.write_bytes(self.root / POINTER, release.model_dump_json(indent=2).encode() + b"\n")
        return release


def released(home: Home, name: str | None = None) -> tuple[str, Release]:
    """The live release under `name`; without a name, that of the only one released in `home`.

    Raises `NotFoundError`, which tells the names there are.
    """
    names = sorted(path.parent.name for path in (home.root / "releases").glob(f"*/{POINTER}"))
    if not names:
        raise NotFoundError("nothing released yet: run `relearn run`")
    if name is None and len(names) > 1:
        raise NotFoundError(f"several names are released, choose one: --name {' or --name '.join(names)}")
    name = name or names[0]
    release = Releases(home.releases(name)).live()
    if release is None:
        raise NotFoundError(f"nothing released as {name!r}; released: {', '.join(names)}")
    return name, release
