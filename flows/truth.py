"""What is live under a name: the ledger says it; live pointer and MLflow's aliases are derived from it."""

from dataclasses import dataclass
from typing import Any, Self

from relearn.flows import owner, registry
from relearn.flows.store import connect, reached
from relearn.model.errors import MachineError
from relearn.model.home import Home
from relearn.serving.ledger import Entry, Release
from relearn.serving.releases import Releases


@dataclass(frozen=True)
class Truth:
    """What the last line of the ledger says: what is live, what a rollback brings back, the reference set."""

    live: Release | None = None
    previous: str | None = None
    reference: str | None = None

    @classmethod
    def of(cls, entry: Entry | None) -> Self:
        """Before the first line there is nothing."""
        return cls(entry.live, entry.previous, entry.fingerprints.get("reference")) if entry else cls()

    @classmethod
    def read(cls, releases: Releases) -> Self:
        return cls.of(releases.ledger.last())


def decide(home: Home, name: str, expected: Truth, **decision: Any) -> Entry | None:
    """Write a decision that was made while `expected` was the truth; None where it no longer is.

    Nor is anything live of which nothing is kept: it may have been pruned meanwhile. `decision` are those
    fields of an `Entry` that are not known here.
    """
    releases = Releases(home.releases(name))
    live: Release | None = decision["live"]
    with releases.locked():
        if Truth.read(releases) != expected or (live and not releases.folder(live.version).is_dir()):
            return None
        before = expected.live.version if expected.live else None
        return releases.record(actor=owner.actor(), before=before, **decision)


def decide_alone(home: Home, name: str, expected: Truth, **decision: Any) -> Entry:
    """`decide`; raises `MachineError` where another decision came in between."""
    entry = decide(home, name, expected, **decision)
    if entry is None:
        raise MachineError(
            f"something else was decided about {name} just now: see relearn history, try again"
        )
    return entry


def follow(home: Home, name: str) -> list[str]:
    """`agree`, after a decision; returns only what has to wait, since MLflow is away."""
    try:
        agree(home, name)
    except MachineError as error:
        return [f"the aliases of {name} follow later: {error}"]
    return []


def agree(home: Home, name: str) -> list[str]:
    """Bring pointer and aliases into agreement with the ledger; returns what had to be changed.

    Done at every start, after what may have been killed or moved by hand, and after every decision. Raises
    `MachineError` where MLflow cannot be reached; the pointer is right by then.
    """
    releases = Releases(home.releases(name))
    changed = [told for told in [releases.settle()] if told]
    if releases.ledger.last() is None:
        return changed
    client = connect(home)
    with reached(client.tracking_uri):
        while True:
            now = Truth.read(releases)
            live = now.live.version if now.live else None
            changed += registry.align(
                client, name, {registry.CHAMPION: live, registry.PREVIOUS: now.previous}
            )
            # Without a lock, which MLflow might let us hold for long: who was overtaken meanwhile, and may
            # have undone what the faster one did, sees it here.
            if Truth.read(releases) == now:
                return changed
