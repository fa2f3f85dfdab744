"""What is kept, and what may go: of each name the newest stay, and all that something still needs."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from relearn.flows import archive, registry
from relearn.flows.archive import Family
from relearn.flows.locks import locked
from relearn.flows.store import Client, look_into, reached
from relearn.model import atomic, checkpoints
from relearn.model.errors import MachineError
from relearn.model.home import Home, disk_use
from relearn.serving import releases as released
from relearn.serving.packaging import discard, stores
from relearn.serving.releases import Releases
from relearn.serving.servers import servers

_JOINED = re.compile(r"\w+-[0-9a-f]{16}-[0-9a-f]{16}")  # a folder of prepared data that something joined


@dataclass(frozen=True)
class Superfluous:
    """Something that may go: what it is, whose, its bytes, and how it goes, if it still may."""

    kind: str
    name: str
    bytes: int
    remove: Callable[[], bool]


def prune(home: Home, keep: int) -> Iterator[Superfluous]:
    """Remove what is `superfluous`, and tell of each when it is gone; `MachineError` where another does."""
    busy = f"another relearn prune is at work in {home.root}"
    with locked(home.root / ".prune.lock", busy), reached(home.tracking_uri):
        yield from (one for one in superfluous(home, keep) if one.remove())


def superfluous(home: Home, keep: int) -> list[Superfluous]:
    """All that nobody needs, but the newest `keep` (1 or more) versions and trainings of each name.

    Never what is live, what a rollback would bring back, what has any alias in MLflow, what a server of
    this machine serves or was started from, what is being trained or released. Each can be removed at any
    moment: what points at something goes before it, and what has become needed meanwhile stays.
    """
    client, found = look_into(home), list[Superfluous]()
    with reached(client.tracking_uri):
        for name in sorted({*released.names(home), *archive.names(client)}):
            versions = Versions(home, client, name, keep)
            gone = sorted(versions.known() - versions.needed(), key=int)
            found += [versions.superfluous(version) for version in gone]
            found += _references(versions.releases)
            needed = {run for version, run in versions.runs() if version not in gone}
            found += _trainings(home, client, name, keep, needed)
    return found + list(_outdated(home)) + list(_leftovers(home))


@dataclass(frozen=True)
class Versions:
    """The versions of one name: in MLflow, as folders that are served, as Bentos and their models."""

    home: Home
    client: Client
    name: str
    keep: int

    @property
    def releases(self) -> Releases:
        return Releases(self.home.releases(self.name))

    def known(self) -> set[str]:
        """All there are, wherever; of a name that was never released here none, whoever registered some."""
        if not self.releases.ledger.path.exists():
            return set()
        stored = (folder.name for store in stores(self.name, self.home) for folder in store.glob("[0-9]*"))
        return {
            *filter(str.isdecimal, stored),
            *self.releases.versions(),
            *registry.versions(self.client, self.name),
        }

    def runs(self) -> Iterator[tuple[str, str]]:
        """The versions that are registered or were live, each with the run that it comes from."""
        yield from registry.versions(self.client, self.name).items()
        for entry in self.releases.ledger.entries():
            if entry.live:
                yield entry.live.version, entry.live.run_id

    def needed(self) -> set[str]:
        """Those that must stay, as things are now."""
        known, entries = self.known(), self.releases.ledger.entries()
        judged = (entry.candidate for entry in entries if entry.action != "reference")
        decided = [int(candidate) for candidate in judged if candidate.isdecimal()]
        under_way = {version for version in known if int(version) > max(decided, default=0)}
        last = entries[-1] if entries else None
        truth = {last.live.version if last.live else None, last.previous} if last else set()
        newest = sorted(known, key=int)[-self.keep :]
        return {
            *newest,
            *under_way,
            *filter(None, truth),
            *registry.aliased(self.client, self.name),
            *self._served(),
        }

    def superfluous(self, version: str) -> Superfluous:
        folders = [self.releases.folder(version), *(one / version for one in stores(self.name, self.home))]
        size = sum(map(disk_use, folders))
        return Superfluous("version", f"{self.name} {version}", size, partial(self._remove, version))

    def _served(self) -> set[str]:
        """By servers of this machine, and what they were started from, since their workers start from it."""
        found: set[str] = set()
        for server in servers(self.home):
            name, _, version = (server.bento or "").partition(":")
            if self.name in (name, server.follows):
                found |= {version, *(one for one in server.versions().values() if one)}
        return found

    def _remove(self, version: str) -> bool:
        with self.releases.locked():
            if version in self.needed():
                return False
            if self.releases.folder(version).is_dir():
                atomic.remove(self.releases.folder(version))
            discard(self.name, version, self.home)
        registry.forget(self.client, self.name, version)
        return True


def _references(releases: Releases) -> Iterator[Superfluous]:
    """Sets of reference images that candidates are no longer judged by."""
    last = releases.ledger.last()
    current = last.fingerprints.get("reference") if last else None
    for folder in releases.root.glob("reference/*") if current else ():
        if folder != releases.reference(str(current)) and atomic.is_old(folder):
            name = f"{releases.root.name} {folder.name}"
            yield Superfluous("reference images", name, disk_use(folder), partial(_take, folder))


def _trainings(home: Home, client: Client, name: str, keep: int, needed: set[str]) -> Iterator[Superfluous]:
    """Files of old runs, and checkpoints of trainings that nobody went on with; not of the runs `needed`."""
    newer: Counter[str] = Counter()
    for family in archive.families(client, name):
        newer[family.kind] += 1
        if newer[family.kind] <= keep or family.under_way or family.ids & needed:
            continue
        size = sum(archive.size(uri) for run in family.runs for uri in archive.places(client, run))
        if size:
            told = f"{family.name}, {family.runs[0].info.run_id[:8]}"
            yield Superfluous("files of a run", told, size, partial(_clear, client, family))
        for folder in (home.checkpoints / run_id for run_id in sorted(family.ids)):
            if folder.is_dir():
                yield Superfluous("checkpoint", folder.name[:8], disk_use(folder), partial(_drop, folder))


def _clear(client: Client, family: Family) -> bool:
    for run in family.runs:
        archive.remove(client, run)
    return True


def _drop(folder: Path) -> bool:
    """Unless the training goes on just now."""
    with suppress(MachineError), checkpoints.held(folder):
        return _take(folder)
    return False


def _take(path: Path) -> bool:
    atomic.remove(path)
    return True


def _outdated(home: Home) -> Iterator[Superfluous]:
    """Prepared data with additions of another day than the newest of it; who needs it prepares it again."""
    newest: set[str] = set()
    joined = [folder for folder in home.prepared.glob("*-*-*") if _JOINED.fullmatch(folder.name)]
    for folder in sorted(joined, key=lambda one: one.stat().st_mtime, reverse=True):
        plain = folder.name.rpartition("-")[0]
        if plain in newest and atomic.is_old(folder):
            yield Superfluous("prepared data", folder.name, disk_use(folder), partial(_take, folder))
        newest.add(plain)


def _leftovers(home: Home) -> Iterator[Superfluous]:
    """What was being written, or removed, by processes that were killed, and what killed servers used."""
    places = [home.checkpoints, home.prepared, *home.root.glob("releases/*"), *home.bentoml.glob("*s/*")]
    left = [folder for place in places for folder in atomic.leftovers(place)]
    left += atomic.leftovers(home.bentoml / "tmp", "relearn-*")
    running = {server.board for server in servers(home)}
    left += [
        folder
        for folder in atomic.leftovers(home.root / "servers", "*")
        if not any(Path(board).is_relative_to(folder) for board in running)
    ]
    for path in left:
        yield Superfluous("leftover", path.name, disk_use(path), partial(_take, path))
