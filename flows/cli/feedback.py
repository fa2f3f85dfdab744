"""`relearn feedback`: what people say that images show, looked through before it becomes data."""

import json as lines
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from relearn.flows.rendering import check_output, write_figure
from relearn.model.errors import InputError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.claims import Review, Reviewed, State
    from relearn.flows.feedback import Decision

app = App(name="feedback")

PICTURE, FACTS = 20, 18  # characters across: an image, and what is known of it; two of both fit into 80
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
    check_output("--contact-sheet", contact_sheet, force)
    found, name = _review(name)
    shown = list(found.reviewed) if decided else found.new
    if contact_sheet is not None:
        _write_sheet(contact_sheet, shown[:most], name)
    if json:
        sys.stdout.writelines(f"{lines.dumps(_plain(one), ensure_ascii=False)}\n" for one in found.reviewed)
        return
    console = Console(highlight=False)
    _cards(console, shown[:most])
    _tell(console, found, len(shown), most)
    if contact_sheet is not None:
        console.print(str(contact_sheet), markup=False, soft_wrap=True)


@app.command
def accept(*ids: str, all: Annotated[bool, Parameter(negative=())] = False, name: str | None = None) -> None:
    """Let what people said become data: most for the next training, some to compare candidates by.

    What candidates are compared by is never trained on; the image itself decides to which it belongs.

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    all
        All that is new and that nothing speaks against.
    name
        Under which name; not needed while only one is released.
    """
    if all == bool(ids):
        got = "ids and --all" if all else "nothing"
        raise InputError(f"ids: got {got}, accepted: some that relearn feedback review shows, or --all")
    found, name = _review(name)
    from relearn.flows import claims

    chosen = found.sound if all else found.chosen(ids)
    made = claims.accept(Home.from_environment(), name, chosen)
    console = Console(highlight=False)
    console.print(_became(made, len(chosen)), soft_wrap=True)
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
    if not ids:
        raise InputError("ids: got nothing, accepted: some that relearn feedback review shows")
    found, name = _review(name)
    from relearn.flows.feedback import Decisions

    chosen = [one.claim for one in found.chosen(ids)]
    made = Decisions(Home.from_environment(), name).decide("reject", chosen)
    before = len(chosen) - len(made)
    Console(highlight=False).print(f"rejected {len(made)}" + (f", {before} were already" if before else ""))


def _review(name: str | None) -> "tuple[Review, str]":
    from relearn.serving.releases import chosen

    home = Home.from_environment()
    name = chosen(home, name)
    from relearn.flows import claims

    return claims.review(home, name), name


def _cards(console: Console, shown: "list[Reviewed]") -> None:
    """What can become data with its image; what cannot needs none, and has a line."""
    from relearn.flows.cli.half_blocks import half_blocks

    pictures = [(one, one.claim.image) for one in shown if not one.unusable]
    cards = []
    for one, image in pictures:
        card = Table.grid(padding=(0, 1))
        card.add_column(width=PICTURE)
        card.add_column(width=FACTS)
        card.add_row(half_blocks(console, image, PICTURE) if image is not None else "", _facts(one))
        cards.append(Padding(card, (0, 0, 1, 0)))
    console.print(Columns(cards))
    for one in (one for one in shown if one.unusable):
        told = f"{_id(one)} told {escape(one.claim.label)}: {escape(_why(one))}"
        console.print(told, soft_wrap=True)


def _facts(one: "Reviewed") -> Table:
    """Who says what, since when, and what speaks against it."""
    claim, facts = one.claim, Table.grid()
    facts.add_row(_id(one))
    facts.add_row(
        f"told [bold]{escape(claim.label)}[/]" + (f" ({claim.times} times)" if claim.times > 1 else "")
    )
    if claim.predicted is None:
        facts.add_row("the answer is not recorded", style="dim")
    else:
        facts.add_row(f"answered [bold]{escape(claim.predicted)}[/], {claim.probability:.1%}")
        facts.add_row(f"by version {escape(str(claim.version))}", style="dim")
    facts.add_row(f"{claim.told_at:%Y-%m-%d %H:%M}Z", style="dim")
    if one.decision:
        facts.add_row(f"decided by {escape(one.decision.actor)}", style="dim")
    if one.state == "accepted" and claim.is_recent:
        facts.add_row("never trained on")
    for doubt in one.doubts:
        facts.add_row(escape(doubt), style="yellow")
    return facts


def _id(one: "Reviewed") -> str:
    shown = f"[{COLOURS[one.state]}]{one.claim.id[:SHORT]}[/]"
    return shown if one.state == "new" else f"{shown} {one.state}"


def _tell(console: Console, found: "Review", count: int, most: int) -> None:
    if found.unknown:
        console.print(escape(found.unknown), style="yellow")
    if count > most:
        console.print(f"The first {most} of {count}: --most {count} shows all.")
    counted = Counter(one.state for one in found.reviewed)
    told = ", ".join(f"{counted[state]} {state}" for state in COLOURS if counted[state]) or "nothing was told"
    console.print(f"{escape(found.name)}: {told}")
    if found.new:
        told = f"relearn feedback accept --all accepts {len(found.sound)} that nothing speaks against; "
        single = "relearn feedback accept ID … and reject ID … decide about single ones."
        console.print((told if found.sound else "") + single, soft_wrap=True)


def _became(made: "list[Decision]", chosen: int) -> str:
    recent = sum(one.claim.is_recent for one in made)
    told = (
        f"accepted {len(made)}: {len(made) - recent} for the next training, {recent} to compare candidates by"
    )
    return told + (f"; {chosen - len(made)} were already" if chosen > len(made) else "")


def _why(one: "Reviewed") -> str:
    return one.unusable or "; ".join(one.doubts)


def _plain(one: "Reviewed") -> dict[str, object]:
    told = one.claim.model_dump(mode="json", exclude={"pixels", "shape", "same"})
    return told | {"state": one.state, "unusable": one.unusable, "doubts": list(one.doubts)}


def _write_sheet(path: Path, shown: "list[Reviewed]", name: str) -> None:
    from relearn.model.contact_sheet import contact_sheet

    pictures = [
        (one.claim.image, _caption(one), bool(one.unusable or one.doubts))
        for one in shown
        if one.claim.image is not None
    ]
    write_figure(path, contact_sheet(f"What was told of {name}", pictures), "png")


def _caption(one: "Reviewed") -> tuple[str, ...]:
    claim = one.claim
    said = (
        f"answered {claim.predicted} {claim.probability:.0%}"
        if claim.predicted is not None
        else "not recorded"
    )
    return f"{claim.id[:SHORT]}", f"told {claim.label}", said
