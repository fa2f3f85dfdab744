"""`relearn release`, `rollback`, `history` and `reference`: what is live, and how it came to be."""

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from relearn.flows.cli.orchestrated import orchestrated
from relearn.flows.rendering import two_sides
from relearn.flows.settings import ReleaseConfig
from relearn.model.errors import InputError, IntegrityError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.results import Released

SWAP = 5.0  # seconds that running servers are given to serve what has become live

Gate = Annotated[ReleaseConfig, Parameter(name="*")]
COLOURS = {"promote": "green", "hold": "yellow", "reject": "red", "rollback": "magenta", "reference": "cyan"}


def release(run: str, *, gate: Gate = ReleaseConfig()) -> None:
    """Judge the classifier of a run against the champion, and switch to it where it is better.

    Parameters
    ----------
    run
        The run: its id, the beginning of it, or its name.
    """
    home = Home.from_environment()
    from relearn.flows.tracking import find

    run_id = find(home, run)
    with orchestrated(home, gate):
        from relearn.flows.release import release as release_flow

        released = release_flow(run_id, gate)
    show(Console(), released, home)


def rollback(*, reason: str, to: str | None = None, name: str | None = None) -> None:
    """Let a version that was live before be live again, now, without training.

    Parameters
    ----------
    reason
        Why; it stands in the history.
    to
        The version; by default the one that was live before.
    name
        Under which name; not needed while only one is released.
    """
    reason = _reason(reason)
    from relearn.flows.progress import warn
    from relearn.flows.rollback import rollback as go_back
    from relearn.flows.truth import follow
    from relearn.serving.releases import Releases, chosen

    home = Home.from_environment()
    name = chosen(home, name)
    if told := Releases(home.releases(name)).settle():
        warn(told)
    entry = go_back(home, name, to, reason)
    for line in follow(home, name):
        warn(line)
    console = Console(highlight=False)
    console.print(f"{name}: version {entry.candidate} is live again, version {entry.before} no longer")
    confirm(console, home, name, entry.candidate)


def history(*, name: str | None = None, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Tell what was decided about the releases of a name: when, by whom, why, and what was live then.

    Parameters
    ----------
    name
        Which name's; not needed while only one is released.
    json
        Print the lines of the ledger as they are.
    """
    from relearn.serving.releases import Releases, chosen

    home = Home.from_environment()
    releases = Releases(home.releases(chosen(home, name)))
    entries = releases.ledger.entries()
    if json:
        sys.stdout.writelines(f"{entry.model_dump_json()}\n" for entry in entries)
        return
    console = Console(highlight=False)
    for entry in entries:
        live = f"version {entry.live.version}" if entry.live else "nothing"
        what = f"[{COLOURS[entry.action]}]{entry.action}[/] {escape(entry.candidate)}"
        console.print(f"{entry.at:%Y-%m-%d %H:%M} UTC  {what}  by {escape(entry.actor)}, {live} is live")
        console.print(Padding(escape("; ".join(entry.reasons)), (0, 0, 0, 4)), style="dim")


def reference(*, dataset: str, reason: str, name: str | None = None) -> None:
    """Compare from now on by the test images of another dataset; the history tells when, and why.

    Parameters
    ----------
    dataset
        The dataset, as for `relearn train`; its test images become the reference.
    reason
        Why; it stands in the history.
    name
        Under which name; not needed while only one is released.
    """
    from relearn.flows.reference import change
    from relearn.serving.releases import chosen

    home = Home.from_environment()
    name = chosen(home, name)
    entry = change(home, name, dataset, _reason(reason))
    Console(highlight=False).print(
        f"{name}: candidates are judged by the reference {entry.candidate} from now on"
    )


def reproduce(version: str, *, name: str | None = None) -> None:
    """Train a version again from its card alone; say whether it is the same, close, or why it cannot be.

    Parameters
    ----------
    version
        The version, a number.
    name
        Under which name; not needed while only one is released.
    """
    from relearn.flows.reproduce import reproduce as train_again
    from relearn.serving.releases import chosen

    home = Home.from_environment()
    name = chosen(home, name)
    done = train_again(home, name, version)
    console = Console(highlight=False)
    console.print(two_sides(("then", "now"), done.then, done.now))
    told = {
        "same": f"[green]SAME[/] version {version} of {name} was trained again, bit for bit",
        "close": f"[yellow]CLOSE[/] weights differ by up to {done.difference:.2g}, {done.agreement:.2%} of "
        f"the labels are the same: {done.comparison}",
        "other": f"not reproduced: {done.comparison}, more than chance",
    }[done.verdict]
    told += "".join(f"; {one}" for one in done.circumstances)
    if done.verdict == "other":
        raise IntegrityError(told, "not_reproduced")
    console.print(told)


def _reason(reason: str) -> str:
    """On one line, as a ledger keeps it."""
    if not reason.strip():
        raise InputError("--reason: got nothing, accepted: a few words for the history")
    return " ".join(reason.split())


def show(console: Console, released: "Released", home: Home) -> None:
    """Print the verdict with its guardrails; a rejection is raised as `IntegrityError`, the last line."""
    from relearn.flows.verdict import guardrails

    verdict = released.verdict
    if verdict.checks:
        console.print(guardrails(verdict))
    if verdict.action == "reject":
        raise IntegrityError(released.headline, "rejected")
    console.print(f"[{COLOURS[verdict.action]}]{verdict.action.upper()}[/] {escape(released.headline)}")
    if verdict.action == "promote" and released.live:
        confirm(console, home, released.name, released.live)


def confirm(console: Console, home: Home, name: str, version: str) -> None:
    """Ask the workers of `name`'s running servers until they serve `version`, and say so."""
    from relearn.serving.servers import servers

    following = [server for server in servers(home) if server.follows == name]
    for server in following:
        took = server.took(version, SWAP)
        told = (
            f"serves version {version}"
            if took
            else f"does not serve version {version} yet: see {server.url}/info"
        )
        console.print(f"{server.url} {told}", style="" if took else "yellow", soft_wrap=True)
    if not following:
        console.print(f"no server of {name} runs on this machine; the next one serves version {version}")
