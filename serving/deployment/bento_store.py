"""BentoML's stores in a home: the folders of Bentos and of the models they refer to."""

from pathlib import Path

from relearn.model.errors import NotFoundError
from relearn.model.files import remove_atomically, write_bytes_atomically
from relearn.model.home import Home


def find_bento_folder(tag: str, home: Home) -> Path:
    """Return the folder of the Bento `name:version`; raise `NotFoundError` if there is none.

    BentoML's own look-up would also match a prefix of the version.
    """
    name, _, version = tag.partition(":")
    folder = home.bentoml / "bentos" / name / version
    if not version or not (folder / "bento.yaml").is_file():
        raise NotFoundError(f"no Bento {tag} in {home.bentoml}")
    return folder


def bento_store_paths(name: str, home: Home) -> tuple[Path, Path]:
    """Return the folders of BentoML's stores for `name`: Bentos, and the models they refer to."""
    return home.bentoml / "bentos" / name, home.bentoml / "models" / name


def move_to_store(staging_store: Path, version: str, store: Path) -> None:
    """Move `version` from `staging_store` into `store`, if it is not there, and make it `name:latest`."""
    store.mkdir(parents=True, exist_ok=True)
    if not (store / version).exists():
        (staging_store / version).rename(store / version)
    _set_latest(store, version)


def delete_bento(name: str, version: str, home: Home) -> None:
    """Delete a Bento and then its model, if present; `name:latest` becomes the newest remaining version."""
    for store in bento_store_paths(name, home):
        if (store / version).is_dir():
            remove_atomically(store / version)
        remaining_versions = [folder.name for folder in store.glob("[0-9]*") if folder.name.isdecimal()]
        if remaining_versions:
            _set_latest(store, max(remaining_versions, key=int))
        else:
            (store / "latest").unlink(missing_ok=True)


def _set_latest(store: Path, version: str) -> None:
    write_bytes_atomically(store / "latest", version.encode())
