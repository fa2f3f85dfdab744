"""What is live: ledger, pointer, the release itself, and the servers that should answer with it."""

from collections.abc import Iterator

from relearn.flows.doctor import Found, away, fails, warning, well
from relearn.model.errors import IntegrityError, MachineError, RelearnError
from relearn.model.home import Home
from relearn.serving.ledger import Entry
from relearn.serving.live import load
from relearn.serving.releases import Releases, names
from relearn.serving.servers import Known
from relearn.serving.servers import servers as running


def ledger(home: Home) -> Iterator[Found]:
    """Whether every line follows the one before it."""
    for name in names(home):
        path = Releases(home.releases(name)).ledger.path
        try:
            entries = Releases(home.releases(name)).ledger.entries()
        except IntegrityError as error:
            yield fails(
                str(error),
                f"put a copy of {path.name} back, it decides what is live; servers keep what they serve",
                name,
                IntegrityError.exit_code,
            )
        except MachineError as error:
            yield fails(str(error), f"let this user read {path}", name)
        else:
            live = entries[-1].live if entries else None
            told = f"version {live.version} is live" if live else "nothing is live"
            yield well(f"{len(entries)} decisions, none changed or lost; {told}", name)
    if not names(home):
        yield away("nothing is released yet")


def pointer(home: Home) -> Iterator[Found]:
    """Whether what servers follow is what the ledger says."""
    for name, last in _sound(home):
        releases = Releases(home.releases(name))
        mend = f"relearn serve --name {name} puts it right when it starts, and so does every decision"
        try:
            meant = releases.live()
        except IntegrityError as error:
            yield warning(str(error), mend, name)
            continue
        if meant == last.live:
            yield well("means what the ledger says", name)
        else:
            says = f"version {last.live.version}" if last.live else "nothing is live"
            told = f"version {meant.version}" if meant else "nothing"
            yield warning(f"means {told}, the ledger says {says}", mend, name)


def live(home: Home) -> Iterator[Found]:
    """Whether the release can be loaded, and answers as it did when it was released."""
    for name, last in _sound(home):
        if last.live is None:
            yield away("nothing is live", name)
            continue
        try:
            load(Releases(home.releases(name)), last.live)
        except RelearnError as error:
            back = f"relearn rollback --name {name} --reason damaged"
            yield fails(
                f"version {last.live.version}: {error}",
                f"{back} brings version {last.previous} back" if last.previous else "put a copy of it back",
                name,
                error.exit_code,
            )
        else:
            yield well(f"version {last.live.version} loads, and answers as when it was released", name)


def servers(home: Home) -> Iterator[Found]:
    """Whether each that runs answers, and with what the ledger says."""
    truth = {name: last.live.version if last.live else None for name, last in _sound(home)}
    found = list(running(home))
    for server in found:
        yield _server(server, truth.get(server.follows or ""))
    if not found:
        yield away("none runs on this machine: relearn serve starts one")


def _server(server: Known, version: str | None) -> Found:
    answered = server.answers()
    if answered is None:
        return fails(
            f"runs as process {server.pid}, and does not answer",
            f"end it and start it again: kill {server.pid}; relearn serve --name {server.follows}",
            server.url,
        )
    if server.follows is None or answered == version:
        workers = f"{server.workers} worker{'s' if server.workers > 1 else ''}"
        return well(f"answers with version {answered}, {workers}", server.url)
    return fails(
        f"answers with version {answered}, the ledger of {server.follows} says {version or 'nothing'}",
        f"see what each worker says at {server.url}/info, and start it again where it stays so",
        server.url,
    )


def _sound(home: Home) -> Iterator[tuple[str, Entry]]:
    """The names whose ledger can be read, each with its last line; of others the ledger's own check tells."""
    for name in names(home):
        try:
            last = Releases(home.releases(name)).ledger.last()
        except RelearnError:
            continue
        if last is not None:
            yield name, last
