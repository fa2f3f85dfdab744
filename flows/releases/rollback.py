"""Rollback to a previous version, whose golden requests are checked first."""

from datetime import UTC, datetime

from relearn.flows.releases.release_state import ReleaseState, record_decision_or_fail
from relearn.model.errors import NotFoundError, UserInputError
from relearn.model.home import Home
from relearn.serving.releases.ledger import Entry, Release
from relearn.serving.releases.store import ReleaseStore
from relearn.serving.runtime.hot_reload import load_release


def roll_back(home: Home, name: str, requested_version: str | None, reason: str) -> Entry:
    """Make `requested_version`, by default the previous one, live again; return the ledger entry.

    The version is loaded and checked against its golden requests first. The reference set stays, or becomes
    that of the version if it has other classes. Raises `NotFoundError` for a version
    that was never live, `UserInputError` for the live one, `CorruptDataError` if it is damaged,
    `InfrastructureError` if another decision was made in the meantime.
    """
    releases = ReleaseStore(home.releases_dir(name))
    entries = releases.ledger.read_entries()
    state = ReleaseState.from_entry(entries[-1] if entries else None)
    target_release, promotion = _find_target(releases, entries, state, requested_version)
    load_release(releases, target_release)
    cards = [releases.read_card(release.version) for release in (state.live, target_release) if release]
    fingerprints = dict(promotion.fingerprints)
    if state.reference_fingerprint and len({card.classes for card in cards}) == 1:
        fingerprints["reference"] = state.reference_fingerprint
    live_release = target_release.model_copy(update={"published_at": datetime.now(UTC)})
    return record_decision_or_fail(
        home,
        name,
        state,
        action="rollback",
        subject=target_release.version,
        run_id=target_release.run_id,
        reasons=(reason,),
        fingerprints=fingerprints,
        live=live_release,
        rollback_target=promotion.rollback_target
        if promotion.rollback_target in releases.list_versions()
        else None,
    )


def _find_target(
    releases: ReleaseStore, entries: list[Entry], state: ReleaseState, requested_version: str | None
) -> tuple[Release, Entry]:
    """Return the release to go back to, and the ledger entry that promoted it."""
    promotions = {entry.live.version: entry for entry in entries if entry.action == "promote" and entry.live}
    if state.live is None:
        raise NotFoundError("nothing is live, so there is nothing to roll back")
    target_version = requested_version or state.previous_version
    available_versions = [version for version in releases.list_versions() if version in promotions]
    accepted = ", ".join(version for version in available_versions if version != state.live.version) or "none"
    if target_version is None:
        raise NotFoundError(f"no version was live before {state.live.version}; accepted for --to: {accepted}")
    if target_version == state.live.version:
        raise UserInputError(f"--to: version {target_version} is live already; accepted: {accepted}")
    entry = promotions.get(target_version)
    if entry is None or entry.live is None:
        raise NotFoundError(f"--to: got {target_version!r}, which was never live; accepted: {accepted}")
    if target_version not in available_versions:
        raise NotFoundError(f"--to: version {target_version} is no longer kept; accepted: {accepted}")
    return entry.live, entry
