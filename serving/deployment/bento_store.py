"""BentoML's stores in a home: the folders of Bentos and of the models they refer to."""

from pathlib import Path

import yaml

from relearn.model.errors import CorruptDataError, NotFoundError
from relearn.model.files import (
    read_regular_file,
    remove_atomically,
    sync_folder,
    write_bytes_atomically,
)
from relearn.model.home import Home

MANIFESTS = ("bento.yaml", "model.yaml")  # BentoML's descriptions, in the folders of `bento_store_paths`


def find_bento_folder(tag: str, home: Home) -> Path:
    """Return the folder of the Bento `name:version`.

    BentoML's own look-up would also match a prefix of the version. Raises `NotFoundError` if there is no such
    Bento or its model is missing, `CorruptDataError` if one of their manifests is damaged.
    """
    name, _, version = tag.partition(":")
    stores = bento_store_paths(name, home)
    for store, manifest in zip(stores, MANIFESTS, strict=True):
        if not version or not (store / version / manifest).exists():
            raise NotFoundError(f"no Bento {tag} in {home.bentoml}: {store / version / manifest} is missing")
        _check_manifest(store / version / manifest, name, version)
    return stores[0] / version


def _check_manifest(file: Path, name: str, version: str) -> None:
    """Raise `CorruptDataError` if the manifest `file` is not one of `name:version`."""
    content = read_regular_file(file)
    try:
        manifest = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError):
        manifest = None
    if not isinstance(manifest, dict) or (manifest.get("name"), manifest.get("version")) != (name, version):
        message = f"{file} is damaged: got {len(content):,} bytes, accepted: the manifest of {name}:{version}"
        raise CorruptDataError(message)


def bento_store_paths(name: str, home: Home) -> tuple[Path, Path]:
    """Return the folders of BentoML's stores for `name`: Bentos, and the models they refer to."""
    return home.bentoml / "bentos" / name, home.bentoml / "models" / name


def move_to_store(staging_store: Path, version: str, store: Path) -> None:
    """Move `version` from `staging_store` into `store`, in place of a damaged one; make it `name:latest`."""
    store.mkdir(parents=True, exist_ok=True)
    if (store / version).exists():
        remove_atomically(store / version)
    sync_folder(staging_store / version)
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
