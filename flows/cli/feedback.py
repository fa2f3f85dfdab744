"""`relearn feedback`: what people say that images show, looked through before it becomes data."""

import json as lines
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from model import atomic
from model.errors import InputError
from model.home import Home

if TYPE_CHECKING:
    from flows.claims import Review, Reviewed, State
    from flows.feedback import Decision

app = App(name="feedback")

PICTURE, CARD = 20, 48  # characters across: an image, and an image with what is known of it
SHORT = 8  # of an id's characters are shown; any beginning that only one has is accepted
COLOURS: "dict[State, str]" = {"new": "bold", "accepted": "green", "rejected": "red", "replaced": "dim"}


@app.command
def review(
    *,
    most: int = 20,
    decided: Annotated[bool, Parameter(negative=())] = False,
    contact_sheet: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    name: str | None = None,
) -> None:
    """Show what people said that images show, and what there is to know before deciding about it.

    Parameters
    ----------
    most
        How many to show; the oldest first, since records are bounded.
    decided
        Also show what was decided about already.
    contact_sheet
        Also write the images, with what was said of them, to this PNG file.
    force
        Replace that file where it exists.
    json
        Print all of them, a line of JSON each, without the images.
    name
        Under which name; not needed while only one is released.
    """
    if most < 1:
        raise InputError(f"--most: got {most}, accepted: 1 or more")
    if contact_sheet is not None and (contact_sheet.is_dir() or (contact_sheet.exists() and not force)):
        raise InputError(f"--contact-sheet: {contact_sheet} exists; add --force to replace a file")
    found, name = _review(name)
    shown = list(found.reviewed) if decided else found.new
    if contact_sheet is not None:
        _write_sheet(contact_sheet, shown[:most], name)
    if json:
        sys.stdout.writelines(f"{lines.dumps(_plain(one), ensure_ascii=False)}\n" for one in found.reviewed)
        return
    console = Console(highlight=False)
    console.print(Columns([_card(console, one) for one in shown[:most]], width=CARD, padding=(1, 2)))
    _tell(console, found, len(shown), most)


@app.command
def accept(*ids: str, all: Annotated[bool, Parameter(negative=())] = False, name: str | None = None) -> None:
    """Let what people said become data: most joins the next training, the rest compares classifiers.

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    all
        All that is new and that nothing speaks against.
    name
        Under which name; not needed while only one is released.
    """
    from flows import claims

    if all == bool(ids):
        got = "ids and --all" if all else "nothing"
        raise InputError(f"ids: got {got}, accepted: some that relearn feedback review shows, or --all")
    found, name = _review(name)
    chosen = found.sound if all else found.chosen(ids)
    made = claims.accept(Home.from_environment(), name, chosen)
    console = Console(highlight=False)
    console.print(_became(made, len(chosen)))
    left = [one for one in found.new if all and one not in chosen]
    for one in left:
        console.print(
            f"left out: {one.claim.id[:SHORT]} ({escape(one.claim.label)}), {escape(_why(one))}",
            style="yellow",
            soft_wrap=True,
        )


@app.command
def reject(*ids: str, name: str | None = None) -> None:
    """Let what people said never become data, also if it is said again.

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    name
        Under which name; not needed while only one is released.
    """
    from flows.feedback import Decisions

    if not ids:
        raise InputError("ids: got nothing, accepted: some that relearn feedback review shows")
    found, name = _review(name)
    chosen = [one.claim for one in found.chosen(ids)]
    made = Decisions(Home.from_environment(), name).decide("reject", chosen)
    before = len(chosen) - len(made)
    Console(highlight=False).print(f"rejected {len(made)}" + (f", {before} were already" if before else ""))


def _review(name: str | None) -> "tuple[Review, str]":
    from flows import claims
    from serving.releases import chosen

    home = Home.from_environment()
    name = chosen(home, name)
    return claims.review(home, name), name


def _card(console: Console, one: "Reviewed") -> RenderableType:
    """The image, and beside it who says what."""
    from flows.cli.half_blocks import half_blocks

    claim, facts = one.claim, Table.grid()
    facts.add_row(
        f"[{COLOURS[one.state]}]{claim.id[:SHORT]}[/]" + ("" if one.state == "new" else f" {one.state}")
    )
    facts.add_row(
        f"told [bold]{escape(claim.label)}[/]" + (f" {claim.times} times" if claim.times > 1 else "")
    )
    if claim.predicted is None:
        facts.add_row("no such answer is recorded", style="dim")
    else:
        sure = f"{claim.probability:.1%}"
        facts.add_row(
            f"said [bold]{escape(claim.predicted)}[/] with {sure}, version {escape(str(claim.version))}"
        )
    facts.add_row(f"{claim.told_at:%Y-%m-%d %H:%M} UTC", style="dim")
    for doubt in one.doubts:
        facts.add_row(escape(doubt), style="yellow")
    if one.unusable:
        facts.add_row(escape(one.unusable), style="red")
    grid = Table.grid(padding=(0, 2))
    picture = Padding("", 0) if claim.image is None else half_blocks(console, claim.image, PICTURE)
    grid.add_column(width=PICTURE)
    grid.add_column()
    grid.add_row(picture, facts)
    return grid


def _tell(console: Console, found: "Review", count: int, most: int) -> None:
    if found.unknown:
        console.print(escape(found.unknown), style="yellow")
    if count > most:
        console.print(f"The first {most} of {count}: --most {count} shows all.")
    counted = Counter(one.state for one in found.reviewed)
    told = ", ".join(f"{counted[state]} {state}" for state in COLOURS if counted[state]) or "nothing was told"
    console.print(f"{escape(found.name)}: {told}")
    if found.new:
        console.print(
            f"{len(found.sound)} of the new ones can be accepted with --all: nothing speaks against them."
        )


def _became(made: "list[Decision]", chosen: int) -> str:
    recent = sum(one.claim.is_recent for one in made)
    told = f"accepted {len(made)}: {len(made) - recent} join the next training"
    told += f", {recent} are never trained on, candidates are compared by them"
    return told + (f"; {chosen - len(made)} were already" if chosen > len(made) else "")


def _why(one: "Reviewed") -> str:
    return one.unusable or "; ".join(one.doubts)


def _plain(one: "Reviewed") -> dict[str, object]:
    told = one.claim.model_dump(mode="json", exclude={"pixels", "shape", "same"})
    return told | {"state": one.state, "unusable": one.unusable, "doubts": list(one.doubts)}


def _write_sheet(path: Path, shown: "list[Reviewed]", name: str) -> None:
    import io

    from model.contact_sheet import contact_sheet

    pictures = [
        (one.claim.image, _caption(one), bool(one.unusable or one.doubts))
        for one in shown
        if one.claim.image is not None
    ]
    content = io.BytesIO()
    contact_sheet(f"What was told of {name}", pictures).savefig(content, format="png")
    atomic.write_bytes(path, content.getvalue())


def _caption(one: "Reviewed") -> tuple[str, ...]:
    claim = one.claim
    said = (
        f"said {claim.predicted} {claim.probability:.0%}" if claim.predicted is not None else "not recorded"
    )
    return f"{claim.id[:SHORT]}", f"told {claim.label}", said
