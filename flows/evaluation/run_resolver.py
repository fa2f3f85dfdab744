"""Resolution of a query to a run: by id, id prefix, name or registered version such as `mnist@3`."""

from collections.abc import Iterable
from dataclasses import dataclass

from relearn.flows.releases.release_state import ReleaseState
from relearn.flows.tracking import registry
from relearn.flows.tracking.runs import resolve_run_id
from relearn.flows.tracking.store import Client, connect_existing
from relearn.model.errors import NotFoundError
from relearn.model.home import Home
from relearn.serving.releases.store import ReleaseStore, resolve_name


@dataclass(frozen=True)
class RunRef:
    """A run that `query` named; `model_name` and `version` are None unless the query named a version."""

    run_id: str
    query: str
    model_name: str | None = None
    version: str | None = None

    @property
    def label(self) -> str:
        """Label in a comparison: `mnist@3` for a version, else the query."""
        return f"{self.model_name}@{self.version}" if self.model_name else self.query


def resolve_run(home: Home, query: str, name: str | None = None) -> RunRef:
    """Return the run that `query` names; raise `NotFoundError` without one.

    `mnist@3` is version 3 of mnist, `mnist@champion` the live version, `mnist@previous` the rollback target.
    A number of up to three digits is a version of `name`, which is optional while only one model is
    released. Id prefixes need four characters or more.
    """
    name_part, separator, version_or_alias = query.rpartition("@")
    if not (separator or (query.isdecimal() and len(query) < 4)):
        return RunRef(resolve_run_id(home, query), query)
    name = resolve_name(home, name_part or name)
    version = _version_by_alias(home, name).get(version_or_alias) or version_or_alias
    if release := ReleaseStore(home.releases_dir(name)).find_release(version):
        return RunRef(release.run_id, query, name, version)
    run_id_by_version = registry.list_versions(connect_existing(home), name)
    if version not in run_id_by_version:
        registered_versions = ", ".join(sorted(run_id_by_version, key=int)) or "none"
        raise NotFoundError(f"version: got {query!r}, registered as {name}: {registered_versions}")
    return RunRef(run_id_by_version[version], query, name, version)


def versions_by_run(client: Client, run_ids: Iterable[str]) -> dict[str, str]:
    """Map the ids of registered runs among `run_ids` to their version, such as `mnist@3`."""
    version_by_run = {
        str(version.run_id): f"{version.name}@{version.version}" for version in client.search_model_versions()
    }
    return {run_id: version_by_run[run_id] for run_id in run_ids if run_id in version_by_run}


def _version_by_alias(home: Home, name: str) -> dict[str, str | None]:
    """Return version by alias from the ledger; MLflow's aliases are derived from it."""
    release_state = ReleaseState.from_store(ReleaseStore(home.releases_dir(name)))
    return {
        registry.CHAMPION_ALIAS: release_state.live.version if release_state.live else None,
        registry.PREVIOUS_ALIAS: release_state.previous_version,
    }
