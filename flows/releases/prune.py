"""`relearn home prune`: deletes old versions, files of runs, checkpoints, data and features not in use."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from relearn.flows.tracking import artifacts, registry
from relearn.flows.tracking.artifacts import RunTree
from relearn.flows.tracking.store import Client, connect_existing, mlflow_errors
from relearn.model.errors import InfrastructureError, NotFoundError
from relearn.model.file_lock import locked
from relearn.model.files import find_stale_temp_files, is_stale, remove_atomically
from relearn.model.home import Home, disk_usage
from relearn.model.preparation.prepared import MANIFEST_FILE, lock_prepared
from relearn.model.training import checkpoints
from relearn.model.training.features import FEATURES_FILE, IMAGE_BYTES, count_unused, delete_unused
from relearn.serving.deployment.bento_store import bento_store_paths, delete_bento
from relearn.serving.deployment.discovery import find_running_servers
from relearn.serving.releases.store import ReleaseStore, list_released_names

PRUNE_LOCK = ".prune.lock"
REBUILDABLE_KINDS = ("prepared data", "features", "orphaned file")


@dataclass(frozen=True)
class Prunable:
    """A version, file or folder that nothing needs.

    `delete` deletes it, unless it is needed again, and returns whether it did.
    """

    kind: str
    name: str
    size_bytes: int
    delete: Callable[[], bool]


def prune(
    home: Home, keep_newest: int, model_name: str | None = None, *, only_rebuildable: bool = False
) -> Iterator[Prunable]:
    """Delete everything that `find_prunable` finds; yield each deleted item.

    Raises `InfrastructureError` if another `relearn home prune`, or a backup, runs.
    """
    busy = f"another relearn home prune, or a backup, runs in {home.root}"
    with locked(home.root / PRUNE_LOCK, busy), mlflow_errors(home.tracking_uri):
        for prunable in find_prunable(home, keep_newest, model_name, only_rebuildable=only_rebuildable):
            if prunable.delete():
                yield prunable


def find_prunable(
    home: Home, keep_newest: int, model_name: str | None = None, *, only_rebuildable: bool = False
) -> list[Prunable]:
    """Find versions, files and folders that nothing needs, by default of all models and of the home itself.

    With `only_rebuildable` these are prepared data, features and temporary files alone.

    Excluded are the newest `keep_newest` (1 or more) versions and runs per model, the live version, the
    rollback target, versions with any alias in MLflow, versions that a server of this machine serves or was
    started from, and running trainings and releases. Deletion may be interrupted at any time: references are
    deleted before their targets, and each item is checked again.
    """
    client, prunables, needed_fingerprints = connect_existing(home), list[Prunable](), set[str]()
    with mlflow_errors(client.tracking_uri):
        names = {*list_released_names(home), *artifacts.list_experiment_names(client)}
        if model_name and model_name not in names:
            raise NotFoundError(f"--model-name: got {model_name!r}, accepted: {', '.join(sorted(names))}")
        for name in [model_name] if model_name else sorted(names):
            versions = ModelVersions(home, client, name, keep_newest)
            prunable_versions = sorted(versions.list_all() - versions.find_protected(), key=int)
            prunables += [versions.to_prunable(version) for version in prunable_versions]
            prunables += _find_unused_references(versions.releases)
            protected_run_ids = {
                run_id for version, run_id in versions.iterate_run_ids() if version not in prunable_versions
            }
            kept_versions = set(versions.releases.list_versions()) - {*prunable_versions}
            needed_fingerprints |= {versions.releases.read_card(kept).fingerprint for kept in kept_versions}
            for run_tree, is_kept in _list_runs(client, name, keep_newest, protected_run_ids):
                if is_kept:
                    needed_fingerprints |= run_tree.fingerprints
                else:
                    prunables += _find_files_of_run(home, client, run_tree)
    if model_name is None:
        prunables += _find_outdated_datasets(home, needed_fingerprints)
        prunables += _find_unused_features(home)
        prunables += _find_orphaned_files(home)
    return [item for item in prunables if item.kind in REBUILDABLE_KINDS or not only_rebuildable]


@dataclass(frozen=True)
class ModelVersions:
    """The versions of a model: in MLflow's registry, as release folders, as Bentos and their models."""

    home: Home
    client: Client
    name: str
    keep_newest: int

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.home.releases_dir(self.name))

    def list_all(self) -> set[str]:
        """Return all versions, wherever stored; none for a model that was never released in this home."""
        if not self.releases.ledger.folder.exists():
            return set()
        bento_versions = (
            folder.name
            for store in bento_store_paths(self.name, self.home)
            for folder in store.glob("[0-9]*")
        )
        return {
            *filter(str.isdecimal, bento_versions),
            *self.releases.list_versions(),
            *registry.list_versions(self.client, self.name),
        }

    def iterate_run_ids(self) -> Iterator[tuple[str, str]]:
        """Yield the versions that are registered or were live, each with its run id."""
        yield from registry.list_versions(self.client, self.name).items()
        for entry in self.releases.ledger.read_entries():
            if entry.live:
                yield entry.live.version, entry.live.run_id

    def find_protected(self) -> set[str]:
        """Return the versions that must stay.

        They are the newest and undecided ones, the live one and its baseline, the rollback target, and those
        that have an alias or are served.
        """
        all_versions, entries = self.list_all(), self.releases.ledger.read_entries()
        candidates = (entry.subject for entry in entries if entry.action != "reference")
        decided_versions = [int(candidate) for candidate in candidates if candidate.isdecimal()]
        undecided_versions = {
            version for version in all_versions if int(version) > max(decided_versions, default=0)
        }
        last_entry = entries[-1] if entries else None
        live_and_previous = (
            {
                *((last_entry.live.version, last_entry.live.baseline) if last_entry.live else ()),
                last_entry.rollback_target,
            }
            if last_entry
            else set()
        )
        newest_versions = sorted(all_versions, key=int)[-self.keep_newest :]
        return {
            *newest_versions,
            *undecided_versions,
            *filter(None, live_and_previous),
            *registry.find_versions_with_alias(self.client, self.name),
            *self._find_served(),
        }

    def to_prunable(self, version: str) -> Prunable:
        folders = [
            self.releases.version_folder(version),
            *(store / version for store in bento_store_paths(self.name, self.home)),
        ]
        size = sum(map(disk_usage, folders))
        return Prunable("version", f"{self.name} {version}", size, partial(self._delete, version))

    def _find_served(self) -> set[str]:
        """Return the versions that servers of this machine serve or start their workers from."""
        served_versions: set[str] = set()
        for server in find_running_servers(self.home):
            name, _, version = (server.bento or "").partition(":")
            if self.name in (name, server.model_name):
                served_versions |= {
                    version,
                    *(
                        worker_version
                        for worker_version in server.read_worker_versions().values()
                        if worker_version
                    ),
                }
        return served_versions

    def _delete(self, version: str) -> bool:
        with self.releases.locked():
            if version in self.find_protected():
                return False
            if self.releases.version_folder(version).is_dir():
                remove_atomically(self.releases.version_folder(version))
            delete_bento(self.name, version, self.home)
        registry.delete_version(self.client, self.name, version)
        return True


def _find_unused_references(releases: ReleaseStore) -> Iterator[Prunable]:
    """Yield reference sets that neither evaluate candidates nor would after a rollback to other classes."""
    entries = releases.ledger.read_entries()
    if not entries or entries[-1].live is None or "reference" not in entries[-1].fingerprints:
        return
    classes = releases.read_card(entries[-1].live.version).classes
    kept = {version for version in releases.list_versions() if releases.read_card(version).classes != classes}
    promotions = [
        entry for entry in entries if entry.action == "promote" and entry.live and entry.live.version in kept
    ]
    used = {entry.fingerprints.get("reference", "") for entry in (entries[-1], *promotions)}
    folders = set(map(releases.reference_folder, used))
    for folder in releases.root.glob("reference/*"):
        if folder not in folders and is_stale(folder):
            name = f"{releases.root.name} {folder.name}"
            yield Prunable("reference images", name, disk_usage(folder), partial(_delete_path, folder))


def _list_runs(
    client: Client, name: str, keep_newest: int, protected_run_ids: Set[str]
) -> Iterator[tuple[RunTree, bool]]:
    """Yield the runs of a model, newest first, and whether each is kept with its files."""
    counts_by_kind: Counter[str] = Counter()
    for run_tree in artifacts.list_run_trees(client, name):
        counts_by_kind[run_tree.job_type] += 1
        is_new = counts_by_kind[run_tree.job_type] <= keep_newest
        yield run_tree, is_new or run_tree.is_running or bool(run_tree.run_ids & protected_run_ids)


def _find_files_of_run(home: Home, client: Client, run_tree: RunTree) -> Iterator[Prunable]:
    """Yield the files of a run, and the checkpoints of an unfinished training."""
    size = sum(
        artifacts.measure_bytes(uri)
        for run in run_tree.runs
        for uri in artifacts.list_artifact_uris(client, run)
    )
    if size:
        description = f"{run_tree.run_name}, {run_tree.runs[0].info.run_id[:8]}"
        yield Prunable("files of a run", description, size, partial(_delete_artifacts, client, run_tree))
    for folder in (home.checkpoints / run_id for run_id in sorted(run_tree.run_ids)):
        if folder.is_dir():
            delete = partial(_delete_checkpoint, folder)
            yield Prunable("checkpoint", folder.name[:8], disk_usage(folder), delete)


def _delete_artifacts(client: Client, run_tree: RunTree) -> bool:
    for run in run_tree.runs:
        artifacts.delete_artifacts(client, run)
    return True


def _delete_checkpoint(folder: Path) -> bool:
    """Delete a checkpoint unless a training has locked it."""
    with suppress(InfrastructureError), checkpoints.lock_folder(folder):
        return _delete_path(folder)
    return False


def _delete_path(path: Path) -> bool:
    remove_atomically(path)
    return True


def _find_outdated_datasets(home: Home, needed_fingerprints: Set[str]) -> Iterator[Prunable]:
    """Yield prepared data that no kept version or run learned from; it can be made again.

    Of each source and its settings the copies used last, with and without extra images, are kept.
    """
    newest, folders = set[str](), [file.parent for file in home.dataset_cache.glob(f"*/{MANIFEST_FILE}")]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True):
        with suppress(
            OSError, ValueError, LookupError, TypeError
        ):  # a damaged or older one is replaced when it is used
            manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
            source = str((manifest["uri"], manifest["settings"], manifest["extra_images"] is None))
            is_needed = source not in newest or manifest["fingerprint"] in needed_fingerprints
            newest.add(source)
            if not is_needed and is_stale(folder):
                delete = partial(_delete_dataset, folder)
                yield Prunable("prepared data", folder.name, disk_usage(folder), delete)


def _delete_dataset(folder: Path) -> bool:
    """Delete prepared data, unless a training has begun to use it meanwhile."""
    with suppress(InfrastructureError), lock_prepared(folder):
        return is_stale(folder) and _delete_path(folder)
    return False


def _find_unused_features(home: Home) -> Iterator[Prunable]:
    """Yield the features of images that no training has used for long; they can be computed again."""
    file = home.backbones / FEATURES_FILE
    if file.exists() and (count := count_unused(file)):
        yield Prunable("features", f"{count:,} images", count * IMAGE_BYTES, partial(delete_unused, file))


def _find_orphaned_files(home: Home) -> Iterator[Prunable]:
    """Yield temporary files of killed processes, and status folders of killed servers."""
    parent_folders = [
        home.checkpoints,
        home.dataset_cache,
        home.backbones,
        *home.root.glob("releases/*"),
        *home.root.glob("releases/*/ledger"),
        *home.bentoml.glob("*s/*"),
    ]
    stale_paths = [
        folder for parent_folder in parent_folders for folder in find_stale_temp_files(parent_folder)
    ]
    stale_paths += find_stale_temp_files(home.bentoml / "tmp", "relearn-*")
    status_dirs = {server.worker_status_dir for server in find_running_servers(home)}
    stale_paths += [
        folder
        for folder in find_stale_temp_files(home.root / "servers", "*")
        if not any(Path(status_dir).is_relative_to(folder) for status_dir in status_dirs)
    ]
    for path in stale_paths:
        yield Prunable("orphaned file", path.name, disk_usage(path), partial(_delete_path, path))
