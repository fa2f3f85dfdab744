"""Which run is meant: by its id, the beginning of it, or its name; or a released version, `mnist@3`."""

from collections.abc import Iterable
from dataclasses import dataclass

from relearn.flows import registry
from relearn.flows.store import Client, look_into
from relearn.flows.tracking import find
from relearn.flows.truth import Truth
from relearn.model.errors import NotFoundError
from relearn.model.home import Home
from relearn.serving.releases import Releases, chosen


@dataclass(frozen=True)
class Named:
    """A run as somebody named it; where that was by a version, `name` and `version` say which."""

    run_id: str
    asked: str
    name: str | None = None
    version: str | None = None

    @property
    def label(self) -> str:
        """How it is called beside others."""
        return f"{self.name}@{self.version}" if self.name else self.asked


def meant(home: Home, asked: str, name: str | None = None) -> Named:
    """The run that `asked` means; `NotFoundError` where there is none.

    `mnist@3` is version 3 of mnist, `mnist@champion` what is live, `mnist@previous` what a rollback would
    bring back. A number of up to three digits is a version of `name`, which may be left out while only one
    name is released; runs are found by four characters or more.
    """
    of, at, which = asked.rpartition("@")
    if not (at or (asked.isdecimal() and len(asked) < 4)):
        return Named(find(home, asked), asked)
    client, name = look_into(home), chosen(home, of or name)
    registered = registry.versions(client, name)
    version = _aliases(home, name).get(which) or which
    if version not in registered:
        there = ", ".join(sorted(registered, key=int)) or "none"
        raise NotFoundError(f"version: got {asked!r}, registered as {name}: {there}")
    return Named(registered[version], asked, name, version)


def released(client: Client, runs: Iterable[str]) -> dict[str, str]:
    """Which of these runs is which registered version, such as `mnist@3`."""
    found = {
        str(version.run_id): f"{version.name}@{version.version}" for version in client.search_model_versions()
    }
    return {run: found[run] for run in runs if run in found}


def _aliases(home: Home, name: str) -> dict[str, str | None]:
    """As the ledger says; those of MLflow are derived from it."""
    truth = Truth.read(Releases(home.releases(name)))
    return {
        registry.CHAMPION: truth.live.version if truth.live else None,
        registry.PREVIOUS: truth.previous,
    }
