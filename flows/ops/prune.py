"""What is kept, and what may go: of each name the newest stay, and all that something still needs."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from relearn.flows.locks import locked
from relearn.flows.tracking import artifacts, registry
from relearn.flows.tracking.artifacts import RunTree
from relearn.flows.tracking.store import Client, connect_existing, mlflow_errors
from relearn.model.errors import InfrastructureError
from relearn.model.files import find_stale_temp_files, is_stale, remove_atomically
from relearn.model.home import Home, disk_usage
from relearn.model.training import checkpoints
from relearn.serving.deployment.discovery import find_running_servers
from relearn.serving.deployment.packaging import bento_store_paths, delete_bento
from relearn.serving.releases import store as released
from relearn.serving.releases.store import ReleaseStore

_MERGED_DATASET_PATTERN = re.compile(
    r"\w+-[0-9a-f]{16}-[0-9a-f]{16}"
)  # a folder of prepared data that something joined


@dataclass(frozen=True)
class Prunable:
    """Something that may go: what it is, whose, its bytes, and how it goes, if it still may."""

    kind: str
    name: str
    size_bytes: int
    delete: Callable[[], bool]


def prune(home: Home, keep_newest: int) -> Iterator[Prunable]:
    """Remove what is `superfluous`, and tell of each when it is gone; `MachineError` where another does."""
    busy = f"another relearn prune is at work in {home.root}"
    with locked(home.root / ".prune.lock", busy), mlflow_errors(home.tracking_uri):
        yield from (prunable for prunable in find_prunable(home, keep_newest) if prunable.delete())


def find_prunable(home: Home, keep_newest: int) -> list[Prunable]:
    """All that nobody needs, but the newest `keep` (1 or more) versions and trainings of each name.

    Never what is live, what a rollback would bring back, what has any alias in MLflow, what a server of
    this machine serves or was started from, what is being trained or released. Each can be removed at any
    moment: what points at something goes before it, and what has become needed meanwhile stays.
    """
    client, prunables = connect_existing(home), list[Prunable]()
    with mlflow_errors(client.tracking_uri):
        for name in sorted({*released.list_released_names(home), *artifacts.list_experiment_names(client)}):
            versions = ModelVersions(home, client, name, keep_newest)
            prunable_versions = sorted(versions.list_all() - versions.find_protected(), key=int)
            prunables += [versions.to_prunable(version) for version in prunable_versions]
            prunables += _find_unused_references(versions.releases)
            protected_run_ids = {
                run_id for version, run_id in versions.iterate_run_ids() if version not in prunable_versions
            }
            prunables += _find_old_runs(home, client, name, keep_newest, protected_run_ids)
    return prunables + list(_find_outdated_datasets(home)) + list(_find_leftovers(home))


@dataclass(frozen=True)
class ModelVersions:
    """The versions of one name: in MLflow, as folders that are served, as Bentos and their models."""

    home: Home
    client: Client
    name: str
    keep_newest: int

    @property
    def releases(self) -> ReleaseStore:
        return ReleaseStore(self.home.releases_dir(self.name))

    def list_all(self) -> set[str]:
        """All there are, wherever; of a name that was never released here none, whoever registered some."""
        if not self.releases.ledger.path.exists():
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
        """The versions that are registered or were live, each with the run that it comes from."""
        yield from registry.list_versions(self.client, self.name).items()
        for entry in self.releases.ledger.read_entries():
            if entry.live:
                yield entry.live.version, entry.live.run_id

    def find_protected(self) -> set[str]:
        """Those that must stay, as things are now."""
        all_versions, entries = self.list_all(), self.releases.ledger.read_entries()
        candidates = (entry.subject for entry in entries if entry.action != "reference")
        decided_versions = [int(candidate) for candidate in candidates if candidate.isdecimal()]
        undecided_versions = {
            version for version in all_versions if int(version) > max(decided_versions, default=0)
        }
        last_entry = entries[-1] if entries else None
        live_and_previous = (
            {last_entry.live.version if last_entry.live else None, last_entry.rollback_target}
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
        """By servers of this machine, and what they were started from, since their workers start from it."""
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
    """Sets of reference images that candidates are no longer judged by."""
    last_entry = releases.ledger.read_last()
    current_fingerprint = last_entry.fingerprints.get("reference") if last_entry else None
    for folder in releases.root.glob("reference/*") if current_fingerprint else ():
        if folder != releases.reference_folder(str(current_fingerprint)) and is_stale(folder):
            name = f"{releases.root.name} {folder.name}"
            yield Prunable("reference images", name, disk_usage(folder), partial(_delete_path, folder))


def _find_old_runs(
    home: Home, client: Client, name: str, keep_newest: int, protected_run_ids: set[str]
) -> Iterator[Prunable]:
    """Files of old runs, and checkpoints of trainings that nobody went on with; not of the runs `needed`."""
    counts_by_kind: Counter[str] = Counter()
    for run_tree in artifacts.list_run_trees(client, name):
        counts_by_kind[run_tree.job_type] += 1
        if (
            counts_by_kind[run_tree.job_type] <= keep_newest
            or run_tree.is_running
            or run_tree.run_ids & protected_run_ids
        ):
            continue
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
                yield Prunable(
                    "checkpoint", folder.name[:8], disk_usage(folder), partial(_delete_checkpoint, folder)
                )


def _delete_artifacts(client: Client, run_tree: RunTree) -> bool:
    for run in run_tree.runs:
        artifacts.delete_artifacts(client, run)
    return True


def _delete_checkpoint(folder: Path) -> bool:
    """Unless the training goes on just now."""
    with suppress(InfrastructureError), checkpoints.lock_folder(folder):
        return _delete_path(folder)
    return False


def _delete_path(path: Path) -> bool:
    remove_atomically(path)
    return True


def _find_outdated_datasets(home: Home) -> Iterator[Prunable]:
    """Prepared data with additions of another day than the newest of it; who needs it prepares it again."""
    seen_prefixes: set[str] = set()
    merged_folders = [
        folder
        for folder in home.dataset_cache.glob("*-*-*")
        if _MERGED_DATASET_PATTERN.fullmatch(folder.name)
    ]
    for folder in sorted(merged_folders, key=lambda one: one.stat().st_mtime, reverse=True):
        prefix = folder.name.rpartition("-")[0]
        if prefix in seen_prefixes and is_stale(folder):
            yield Prunable("prepared data", folder.name, disk_usage(folder), partial(_delete_path, folder))
        seen_prefixes.add(prefix)


def _find_leftovers(home: Home) -> Iterator[Prunable]:
    """What was being written, or removed, by processes that were killed, and what killed servers used."""
    parent_folders = [
        home.checkpoints,
        home.dataset_cache,
        *home.root.glob("releases/*"),
        *home.bentoml.glob("*s/*"),
    ]
    stale_paths = [
        folder for parent_folder in parent_folders for folder in find_stale_temp_files(parent_folder)
    ]
    stale_paths += find_stale_temp_files(home.bentoml / "tmp", "relearn-*")
    boards_in_use = {server.worker_status_dir for server in find_running_servers(home)}
    stale_paths += [
        folder
        for folder in find_stale_temp_files(home.root / "servers", "*")
        if not any(Path(board).is_relative_to(folder) for board in boards_in_use)
    ]
    for path in stale_paths:
        yield Prunable("leftover", path.name, disk_usage(path), partial(_delete_path, path))
