"""`relearn feedback`: what people say that images show, looked through before it becomes data."""

import json as lines
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from relearn.flows.console import make_console
from relearn.flows.rendering import check_output, write_figure
from relearn.model.errors import UserInputError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.feedback.decisions import Decision
    from relearn.flows.feedback.review import Review, ReviewItem, ReviewState

app = App(name="feedback")

IMAGE_WIDTH, FACTS_WIDTH = (
    20,
    18,
)  # characters across: an image, and what is known of it; two of both fit into 80
SHORT_ID_LENGTH = 8  # of an id's characters are shown; any beginning that only one has is accepted
STATE_COLORS: "dict[ReviewState, str]" = {
    "new": "bold",
    "accepted": "green",
    "rejected": "red",
    "replaced": "dim",
}


@app.command
def review(
    *,
    limit: int = 20,
    include_decided: Annotated[bool, Parameter(negative=())] = False,
    contact_sheet: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    model_name: str | None = None,
) -> None:
    """Show what people said that images show, and what there is to know before deciding about it.

    Parameters
    ----------
    limit
        How many to show; the oldest first, since records are bounded.
    include_decided
        Also show what was decided about already.
    contact_sheet
        Also write the images, with what was said of them, to this PNG file.
    force
        Replace that file where it exists.
    json
        Print all of them, a line of JSON each, without the images.
    model_name
        Under which name; not needed while only one is released.
    """
    if limit < 1:
        raise UserInputError(f"--limit: got {limit}, accepted: 1 or more")
    check_output("--contact-sheet", contact_sheet, force)
    label_review, model_name = _load_review(model_name)
    items = list(label_review.items) if include_decided else label_review.new_items
    if contact_sheet is not None:
        _write_contact_sheet(contact_sheet, items[:limit], model_name)
    if json:
        sys.stdout.writelines(
            f"{lines.dumps(_to_json(item), ensure_ascii=False)}\n" for item in label_review.items
        )
        return
    console = make_console()
    _print_cards(console, items[:limit])
    _print_summary(console, label_review, len(items), limit)
    if contact_sheet is not None:
        console.print(str(contact_sheet), soft_wrap=True)


@app.command
def accept(
    *ids: str, all: Annotated[bool, Parameter(negative=())] = False, model_name: str | None = None
) -> None:
    """Let what people said become data: most for the next training, some to compare candidates by.

    What candidates are compared by is never trained on; the image itself decides to which it belongs.

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    all
        All that is new and that nothing speaks against.
    model_name
        Under which name; not needed while only one is released.
    """
    if all == bool(ids):
        got = "ids and --all" if all else "nothing"
        raise UserInputError(f"ids: got {got}, accepted: some that relearn feedback review shows, or --all")
    label_review, model_name = _load_review(model_name)
    from relearn.flows.feedback import review as claims

    selected_items = label_review.acceptable_items if all else label_review.select(ids)
    decisions = claims.accept(Home.from_environment(), model_name, selected_items)
    console = make_console()
    console.print(_describe_accepted(decisions, len(selected_items)), soft_wrap=True)
    skipped_items = [item for item in label_review.new_items if all and item not in selected_items]
    for item in skipped_items:
        console.print(
            f"left out: {item.correction.id[:SHORT_ID_LENGTH]} ({item.correction.label}),"
            f" {_format_reason(item)}",
            style="yellow",
            soft_wrap=True,
        )


@app.command
def reject(*ids: str, model_name: str | None = None) -> None:
    """Let what people said never become data, also if it is said again.

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    model_name
        Under which name; not needed while only one is released.
    """
    if not ids:
        raise UserInputError("ids: got nothing, accepted: some that relearn feedback review shows")
    label_review, model_name = _load_review(model_name)
    from relearn.flows.feedback.decisions import DecisionLog

    corrections = [item.correction for item in label_review.select(ids)]
    decisions = DecisionLog(Home.from_environment(), model_name).record("reject", corrections)
    already_rejected = len(corrections) - len(decisions)
    make_console().print(
        f"rejected {len(decisions)}" + (f", {already_rejected} were already" if already_rejected else "")
    )


def _load_review(name: str | None) -> "tuple[Review, str]":
    from relearn.serving.releases.store import resolve_name

    home = Home.from_environment()
    name = resolve_name(home, name)
    from relearn.flows.feedback import review as claims

    return claims.load_review(home, name), name


def _print_cards(console: Console, items: "list[ReviewItem]") -> None:
    """What can become data with its image; what cannot needs none, and has a line."""
    from relearn.flows.cli.terminal_image import half_blocks

    items_with_image = [(item, item.correction.image) for item in items if not item.rejection_reason]
    cards = []
    for item, image in items_with_image:
        card = Table.grid(padding=(0, 1))
        card.add_column(width=IMAGE_WIDTH)
        card.add_column(width=FACTS_WIDTH)
        card.add_row(
            half_blocks(console, image, IMAGE_WIDTH) if image is not None else "", _build_facts(item)
        )
        cards.append(Padding(card, (0, 0, 1, 0)))
    console.print(Columns(cards))
    for item in (item for item in items if item.rejection_reason):
        reason = f" told {item.correction.label}: {_format_reason(item)}"
        console.print(Text.assemble(_format_id(item), reason), soft_wrap=True)


def _build_facts(item: "ReviewItem") -> Table:
    """Who says what, since when, and what speaks against it."""
    correction, grid = item.correction, Table.grid()
    grid.add_row(_format_id(item))
    grid.add_row(
        Text.assemble(
            "told ",
            (correction.label, "bold"),
            f" ({correction.reports} times)" if correction.reports > 1 else "",
        )
    )
    if correction.predicted_label is None:
        grid.add_row("the answer is not recorded", style="dim")
    else:
        grid.add_row(
            Text.assemble(
                "answered ", (correction.predicted_label, "bold"), f", {correction.probability:.1%}"
            )
        )
        grid.add_row(f"by version {correction.version}", style="dim")
    grid.add_row(f"{correction.reported_at:%Y-%m-%d %H:%M}Z", style="dim")
    if item.decision:
        grid.add_row(f"decided by {item.decision.actor}", style="dim")
    if item.state == "accepted" and correction.is_in_holdout:
        grid.add_row("never trained on")
    for warning in item.warnings:
        grid.add_row(warning, style="yellow")
    return grid


def _format_id(item: "ReviewItem") -> Text:
    short_id = Text(item.correction.id[:SHORT_ID_LENGTH], STATE_COLORS[item.state])
    return short_id if item.state == "new" else Text.assemble(short_id, f" {item.state}")


def _print_summary(console: Console, label_review: "Review", count: int, limit: int) -> None:
    if label_review.training_data_error:
        console.print(label_review.training_data_error, style="yellow")
    if count > limit:
        console.print(f"The first {limit} of {count}: --limit {count} shows all.")
    counts = Counter(item.state for item in label_review.items)
    text = (
        ", ".join(f"{counts[state]} {state}" for state in STATE_COLORS if counts[state]) or "nothing was told"
    )
    console.print(f"{label_review.name}: {text}")
    if label_review.new_items:
        text = (
            f"relearn feedback accept --all accepts {len(label_review.acceptable_items)} that nothing speaks"
            " against; "
        )
        single_hint = "relearn feedback accept ID … and reject ID … decide about single ones."
        console.print((text if label_review.acceptable_items else "") + single_hint, soft_wrap=True)


def _describe_accepted(decisions: "list[Decision]", selected_count: int) -> str:
    holdout_count = sum(decision.correction.is_in_holdout for decision in decisions)
    text = (
        f"accepted {len(decisions)}: {len(decisions) - holdout_count} for the next training, {holdout_count}"
        " to compare candidates by"
    )
    return text + (
        f"; {selected_count - len(decisions)} were already" if selected_count > len(decisions) else ""
    )


def _format_reason(item: "ReviewItem") -> str:
    return item.rejection_reason or "; ".join(item.warnings)


def _to_json(item: "ReviewItem") -> dict[str, object]:
    fields = item.correction.model_dump(mode="json", exclude={"pixels", "shape", "image_matches"})
    return fields | {
        "state": item.state,
        "rejection_reason": item.rejection_reason,
        "warnings": list(item.warnings),
    }


def _write_contact_sheet(path: Path, items: "list[ReviewItem]", name: str) -> None:
    from relearn.model.plots.contact_sheet import plot_contact_sheet

    sheet_cells = [
        (item.correction.image, _format_caption(item), bool(item.rejection_reason or item.warnings))
        for item in items
        if item.correction.image is not None
    ]
    write_figure(path, plot_contact_sheet(f"What was told of {name}", sheet_cells), "png")


def _format_caption(item: "ReviewItem") -> tuple[str, ...]:
    correction = item.correction
    prediction = (
        f"answered {correction.predicted_label} {correction.probability:.0%}"
        if correction.predicted_label is not None
        else "not recorded"
    )
    return f"{correction.id[:SHORT_ID_LENGTH]}", f"told {correction.label}", prediction
