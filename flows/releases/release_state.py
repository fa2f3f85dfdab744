"""Release state of a model: the ledger decides; MLflow's aliases are derived from it."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from relearn.flows.process import provenance
from relearn.flows.tracking import registry
from relearn.flows.tracking.store import connect, connect_existing, mlflow_errors
from relearn.model.errors import InfrastructureError, NotFoundError
from relearn.model.home import Home
from relearn.serving.releases.ledger import Entry, Release
from relearn.serving.releases.store import ReleaseStore


@dataclass(frozen=True)
class ReleaseState:
    """State after the last ledger entry: live release, rollback target, reference set."""

    live: Release | None = None
    previous_version: str | None = None
    reference_fingerprint: str | None = None

    @classmethod
    def from_entry(cls, entry: Entry | None) -> Self:
        """Return the state after `entry`; an empty one for None."""
        return cls(entry.live, entry.rollback_target, entry.fingerprints.get("reference")) if entry else cls()

    @classmethod
    def from_store(cls, releases: ReleaseStore) -> Self:
        """Return the state after the last entry of the ledger."""
        return cls.from_entry(releases.ledger.read_last())


def count_candidates(releases: ReleaseStore, run_id: str) -> tuple[int, int]:
    """Return how many other runs the gate has tested since baseline or reference set changed.

    The second number is that of the runs which it held or rejected.
    """
    tested, failed = set[str](), set[str]()
    for entry in releases.ledger.read_entries():
        if entry.action in ("hold", "reject"):
            failed.add(entry.run_id)
        elif not (entry.action == "promote" and entry.live and entry.live.baseline):
            tested.clear()
            failed.clear()
            continue
        tested.add(entry.run_id)
    return len(tested - {run_id}), len(failed - {run_id})


def record_decision(home: Home, name: str, expected_state: ReleaseState, **decision: Any) -> Entry | None:
    """Write a decision into the ledger; return None if the state is no longer `expected_state`.

    Returns None too if the folder of the live version is gone: it may have been pruned in the meantime, and
    the lock keeps it from being pruned now. If another process has just written an entry that changed
    nothing, the decision becomes the entry after it.
    `decision` has the fields of `Entry` other than `actor` and `previous_live`.
    """
    releases = ReleaseStore(home.releases_dir(name))
    live_release: Release | None = decision["live"]
    decision |= {
        "actor": provenance.current_user(),
        "previous_live": expected_state.live.version if expected_state.live else None,
    }
    with releases.locked():
        while True:
            last_entry = releases.ledger.read_last()
            if ReleaseState.from_entry(last_entry) != expected_state or (
                live_release and not releases.version_folder(live_release.version).is_dir()
            ):
                return None
            if entry := releases.ledger.append(last_entry, **decision):
                return entry


def record_decision_or_fail(home: Home, name: str, expected_state: ReleaseState, **decision: Any) -> Entry:
    """Record a decision; raise `InfrastructureError` if another one was made in the meantime."""
    entry = record_decision(home, name, expected_state, **decision)
    if entry is None:
        raise InfrastructureError(
            f"another decision about {name} was made just now: see relearn history, try again"
        )
    return entry


def try_sync_with_ledger(home: Home, name: str) -> list[str]:
    """Call `sync_with_ledger`; if MLflow is unreachable, return a warning that its aliases are outdated."""
    try:
        sync_with_ledger(home, name)
    except InfrastructureError as error:
        return [f"the aliases of {name} will be updated later: {error}"]
    return []


def map_versions(releases: ReleaseStore) -> dict[str, str]:
    """Map each version number of a candidate or release to its run id; "" if no decision names the run."""
    run_ids = dict.fromkeys(releases.list_versions(), "")
    for entry in releases.ledger.read_entries():
        if entry.action in ("promote", "hold", "reject") and entry.subject.isdecimal():
            run_ids[entry.subject] = entry.run_id
    return run_ids


def derive_aliases(releases: ReleaseStore) -> dict[str, registry.Version | None]:
    """Return the versions that MLflow's aliases should point to, from the ledger."""
    state = ReleaseState.from_store(releases)
    previous = releases.find_release(state.previous_version) if state.previous_version else None
    aliases = {registry.CHAMPION_ALIAS: state.live, registry.PREVIOUS_ALIAS: previous}
    return {
        alias: registry.Version(release.version, release.run_id) if release else None
        for alias, release in aliases.items()
    }


def describe_mismatches(home: Home, name: str) -> list[str]:
    """Return a message for each alias in MLflow that names another run than the ledger; change nothing."""
    client, aliases = connect_existing(home), derive_aliases(ReleaseStore(home.releases_dir(name)))
    with mlflow_errors(client.tracking_uri):
        mismatches = registry.find_mismatched_aliases(client, name, aliases)
    return [
        registry.describe_mismatch(f"@{alias} points", version, aliases[alias])
        for alias, version in mismatches.items()
    ]


def sync_with_ledger(home: Home, name: str) -> list[str]:
    """Update the MLflow aliases from the ledger; return a message for each correction.

    A release that is no longer registered is registered again. Called after every decision, and at every
    start, since a process may have been killed, or somebody has changed aliases and versions in MLflow's UI.
    Raises `InfrastructureError` if MLflow is unreachable.
    """
    releases = ReleaseStore(home.releases_dir(name))
    messages: list[str] = []
    if releases.ledger.read_last() is None:
        return messages
    client = connect(home)
    with mlflow_errors(client.tracking_uri):
        while True:
            state, aliases = ReleaseState.from_store(releases), derive_aliases(releases)
            released = map_versions(releases)
            for version in filter(None, aliases.values()):
                if registry.find_number(client, version.run_id, name, released) is None:
                    with releases.locked(), suppress(NotFoundError):
                        registry.register(client, version.run_id, name, released)
            messages += registry.sync_aliases(client, name, aliases, released)
            # Without a lock, since MLflow may take long: a process that was overtaken, and may have
            # overwritten newer aliases, sees it here and tries again.
            if ReleaseState.from_store(releases) == state:
                return messages
