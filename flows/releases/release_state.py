"""Release state of a model: the ledger decides; MLflow's aliases are derived from it."""

from dataclasses import dataclass
from typing import Any, Self

from relearn.flows import process_identity
from relearn.flows.tracking import registry
from relearn.flows.tracking.store import connect, mlflow_errors
from relearn.model.errors import InfrastructureError
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


def count_earlier_candidates(releases: ReleaseStore, run_id: str) -> int:
    """Return how many other runs the gate held or rejected since champion or reference set changed."""
    run_ids = set[str]()
    for entry in releases.ledger.read_entries():
        if entry.action in ("hold", "reject"):
            run_ids.add(entry.run_id)
        else:
            run_ids.clear()
    return len(run_ids - {run_id})


def record_decision(home: Home, name: str, expected_state: ReleaseState, **decision: Any) -> Entry | None:
    """Append a decision to the ledger; return None if the state is no longer `expected_state`.

    Returns None too if the folder of the live version is gone: it may have been pruned in the meantime.
    `decision` has the fields of `Entry` other than `actor` and `previous_live`.
    """
    releases = ReleaseStore(home.releases_dir(name))
    live_release: Release | None = decision["live"]
    with releases.locked():
        if ReleaseState.from_store(releases) != expected_state or (
            live_release and not releases.version_folder(live_release.version).is_dir()
        ):
            return None
        previous_live = expected_state.live.version if expected_state.live else None
        return releases.ledger.append(
            actor=process_identity.current_user(), previous_live=previous_live, **decision
        )


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


def sync_with_ledger(home: Home, name: str) -> list[str]:
    """Update the MLflow aliases from the ledger; return a message for each correction.

    Called after every decision, and at every start, since a process may have been killed or an alias moved
    by hand. Raises `InfrastructureError` if MLflow is unreachable.
    """
    releases = ReleaseStore(home.releases_dir(name))
    messages: list[str] = []
    if releases.ledger.read_last() is None:
        return messages
    client = connect(home)
    with mlflow_errors(client.tracking_uri):
        while True:
            state = ReleaseState.from_store(releases)
            live_version = state.live.version if state.live else None
            messages += registry.sync_aliases(
                client,
                name,
                {registry.CHAMPION_ALIAS: live_version, registry.PREVIOUS_ALIAS: state.previous_version},
            )
            # Without a lock, since MLflow may take long: a process that was overtaken, and may have
            # overwritten newer aliases, sees it here and tries again.
            if ReleaseState.from_store(releases) == state:
                return messages
