"""What is live under a name: the ledger says it; live pointer and MLflow's aliases are derived from it."""

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
    """What the last line of the ledger says: what is live, what a rollback brings back, the reference set."""

    live: Release | None = None
    previous_version: str | None = None
    reference_fingerprint: str | None = None

    @classmethod
    def from_entry(cls, entry: Entry | None) -> Self:
        """Before the first line there is nothing."""
        return cls(entry.live, entry.rollback_target, entry.fingerprints.get("reference")) if entry else cls()

    @classmethod
    def from_store(cls, releases: ReleaseStore) -> Self:
        return cls.from_entry(releases.ledger.read_last())


def record_decision(home: Home, name: str, expected_state: ReleaseState, **decision: Any) -> Entry | None:
    """Write a decision that was made while `expected` was the truth; None where it no longer is.

    Nor is anything live of which nothing is kept: it may have been pruned meanwhile. `decision` are those
    fields of an `Entry` that are not known here.
    """
    releases = ReleaseStore(home.releases_dir(name))
    live_release: Release | None = decision["live"]
    with releases.locked():
        if ReleaseState.from_store(releases) != expected_state or (
            live_release and not releases.version_folder(live_release.version).is_dir()
        ):
            return None
        previous_live = expected_state.live.version if expected_state.live else None
        return releases.append_decision(
            actor=process_identity.current_user(), previous_live=previous_live, **decision
        )


def decide_alone(home: Home, name: str, expected: ReleaseState, **decision: Any) -> Entry:
    """`decide`; raises `MachineError` where another decision came in between."""
    entry = record_decision(home, name, expected, **decision)
    if entry is None:
        raise InfrastructureError(
            f"something else was decided about {name} just now: see relearn history, try again"
        )
    return entry


def try_sync_with_ledger(home: Home, name: str) -> list[str]:
    """`agree`, after a decision; returns only what has to wait, since MLflow is away."""
    try:
        sync_with_ledger(home, name)
    except InfrastructureError as error:
        return [f"the aliases of {name} follow later: {error}"]
    return []


def sync_with_ledger(home: Home, name: str) -> list[str]:
    """Bring pointer and aliases into agreement with the ledger; returns what had to be changed.

    Done at every start, after what may have been killed or moved by hand, and after every decision. Raises
    `MachineError` where MLflow cannot be reached; the pointer is right by then.
    """
    releases = ReleaseStore(home.releases_dir(name))
    messages = [message for message in [releases.repair_pointer()] if message]
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
            # Without a lock, which MLflow might let us hold for long: who was overtaken meanwhile, and may
            # have undone what the faster one did, sees it here.
            if ReleaseState.from_store(releases) == state:
                return messages
