"""Back to a version that was live before: no retraining, and nothing is switched that does not answer."""

from datetime import UTC, datetime

from relearn.flows.truth import Truth, decide_alone
from relearn.model.errors import InputError, NotFoundError
from relearn.model.home import Home
from relearn.serving.ledger import Entry, Release
from relearn.serving.live import load
from relearn.serving.releases import Releases


def rollback(home: Home, name: str, to: str | None, reason: str) -> Entry:
    """Let `to`, by default the version that was live before, be live again; returns the ledger's line.

    The version is loaded and asked its golden requests first. Raises `NotFoundError` for a version that was
    never live, `InputError` for the one that is, `IntegrityError` where it is damaged, `MachineError` where
    another decision came in between.
    """
    releases = Releases(home.releases(name))
    entries = releases.ledger.entries()
    now = Truth.of(entries[-1] if entries else None)
    target, promoted = _target(releases, entries, now, to)
    load(releases, target)
    live = target.model_copy(update={"published_at": datetime.now(UTC)})
    return decide_alone(
        home,
        name,
        now,
        action="rollback",
        candidate=target.version,
        run_id=target.run_id,
        reasons=(reason,),
        fingerprints=promoted.fingerprints | ({"reference": now.reference} if now.reference else {}),
        live=live,
        previous=promoted.previous if promoted.previous in releases.versions() else None,
    )


def _target(releases: Releases, entries: list[Entry], now: Truth, to: str | None) -> tuple[Release, Entry]:
    """The release to go back to, and the line at which it was promoted."""
    promoted = {entry.live.version: entry for entry in entries if entry.action == "promote" and entry.live}
    if now.live is None:
        raise NotFoundError("nothing is live, so there is nothing to go back from")
    wanted = to or now.previous
    kept = [version for version in releases.versions() if version in promoted]
    others = ", ".join(version for version in kept if version != now.live.version) or "none"
    if wanted is None:
        raise NotFoundError(f"no version was live before {now.live.version}; accepted for --to: {others}")
    if wanted == now.live.version:
        raise InputError(f"--to: version {wanted} is live already; accepted: {others}")
    entry = promoted.get(wanted)
    if entry is None or entry.live is None:
        raise NotFoundError(f"--to: got {wanted!r}, which was never live; accepted: {others}")
    if wanted not in kept:
        raise NotFoundError(f"--to: version {wanted} is no longer kept; accepted: {others}")
    return entry.live, entry
