"""Review user corrections; accept or reject them as training data."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from relearn.flows.cli.parameters import Json
from relearn.flows.terminal.console import make_console, print_json, print_note, print_warning, spinner
from relearn.flows.terminal.next_step import print_next
from relearn.flows.terminal.rendering import check_output, write_figure
from relearn.model.errors import UserInputError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.feedback.decisions import Decision
    from relearn.flows.feedback.review import Review, ReviewItem, ReviewState

app = App(name="feedback", group_commands="Commands")

IMAGE_WIDTH, FACTS_WIDTH = 20, 18  # characters; two cards side by side fit into 80
SHORT_ID_LENGTH = 8  # characters of an id that are shown; any unique beginning is accepted
STATE_COLORS: "dict[ReviewState, str]" = {
    "new": "bold",
    "accepted": "green",
    "rejected": "red",
    "replaced": "dim",
}


@app.command
def review(
    *,
    sampled: Annotated[bool, Parameter(negative=())] = False,
    limit: int = 20,
    include_decided: Annotated[bool, Parameter(negative=())] = False,
    contact_sheet: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
    model_name: str | None = None,
) -> None:
    """Show user corrections with all that a decision needs, or ask for the labels of sampled images.

    Example: `relearn feedback review --limit 5`

    Parameters
    ----------
    sampled
        Ask for the label of images that the server drew (`--image-sample-rate`), without their prediction.
        These labels alone measure the live accuracy: corrections are mostly about errors.
    limit
        Number of images to show: corrections oldest first, since the prediction log deletes these first,
        samples newest first.
    include_decided
        Also show accepted and rejected corrections.
    contact_sheet
        Also write the images and their labels to this PNG file.
    force
        Replace that file if it exists.
    model_name
        Model name; optional while only one is released.
    """
    if limit < 1:
        raise UserInputError(f"--limit: got {limit}, accepted: 1 or more")
    check_output("--contact-sheet", contact_sheet, force)
    if sampled:
        _ask_for_labels(model_name, limit)
        return
    label_review, model_name = _load_review(model_name)
    items = list(label_review.items) if include_decided else label_review.new_items
    if contact_sheet is not None:
        _write_contact_sheet(contact_sheet, items[:limit], model_name)
    if json:
        print_json([_to_json(item) for item in label_review.items])
        return
    console = make_console()
    _print_cards(console, items[:limit])
    _print_summary(console, label_review, len(items), limit)
    if contact_sheet is not None:
        print_note(str(contact_sheet))
    _print_next(label_review)


@app.command(usage="Usage: relearn feedback accept [OPTIONS] [ID...]")
def accept(
    *ids: str, all: Annotated[bool, Parameter(negative=())] = False, model_name: str | None = None
) -> None:
    """Accept corrections as data for the next training.

    They never evaluate a candidate: people correct what the live version gets wrong, so that any other one
    would seem better.

    Example: `relearn feedback accept --all`

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    all
        All new corrections without warnings.
    model_name
        Model name; optional while only one is released.
    """
    if all == bool(ids):
        got = "ids and --all" if all else "nothing"
        raise UserInputError(f"ids: got {got}, accepted: ids that relearn feedback review shows, or --all")
    label_review, model_name = _load_review(model_name)
    from relearn.flows.feedback import review as label_reviews

    selected_items = label_review.acceptable_items if all else label_review.select(ids)
    decisions = label_reviews.accept(Home.from_environment(), model_name, selected_items)
    console = make_console()
    console.print(_describe_accepted(decisions, len(selected_items)), soft_wrap=True)
    if decisions:
        print_next("run")
    skipped_items = [item for item in label_review.new_items if all and item not in selected_items]
    for item in skipped_items:
        console.print(
            f"left out: {item.correction.id[:SHORT_ID_LENGTH]} ({item.correction.label}),"
            f" {_format_reason(item)}",
            style="yellow",
            soft_wrap=True,
        )


@app.command(usage="Usage: relearn feedback reject [OPTIONS] ID...")
def reject(*ids: str, model_name: str | None = None) -> None:
    """Reject corrections for good, also if they are reported again.

    Example: `relearn feedback reject 3f2a`

    Parameters
    ----------
    ids
        Ids, or beginnings of ids, as `relearn feedback review` shows them.
    model_name
        Model name; optional while only one is released.
    """
    if not ids:
        raise UserInputError("ids: got nothing, accepted: ids that relearn feedback review shows")
    label_review, model_name = _load_review(model_name)
    from relearn.flows.feedback.decisions import DecisionLog

    corrections = [item.correction for item in label_review.select(ids)]
    decisions = DecisionLog(Home.from_environment(), model_name).record("reject", corrections)
    already_rejected = len(corrections) - len(decisions)
    make_console().print(
        f"rejected {len(decisions)}"
        + (f", {already_rejected} were already rejected" if already_rejected else "")
    )


def _ask_for_labels(name: str | None, limit: int) -> None:
    """Show sampled images one by one, and read the label of each from the terminal."""
    from relearn.flows.feedback.samples import Sample, label_samples, list_unlabeled
    from relearn.flows.terminal.terminal_image import render_half_blocks
    from relearn.serving.releases.store import resolve_name

    home, console = Home.from_environment(), make_console()
    name = resolve_name(home, name)
    samples, classes = list_unlabeled(home, name)
    if not samples:
        console.print("no sampled image without a label; a server with --image-sample-rate 0.05 keeps some")
        return
    accepted = f"{', '.join(classes)}, or the first letters of one"

    def ask(sample: Sample) -> str | None:
        console.print(render_half_blocks(console, sample.image, IMAGE_WIDTH * 2))
        while answer := console.input("label, or Enter to skip: ").strip():
            matches = [name for name in classes if name.casefold().startswith(answer.casefold())]
            if answer in classes or len(matches) == 1:
                return answer if answer in classes else matches[0]
            print_warning(f"label: got {answer!r}, accepted: {accepted}")
        return None

    console.print(f"{len(samples):,} sampled images without a label; accepted: {accepted}", soft_wrap=True)
    try:
        labeled = label_samples(home, name, samples[:limit], classes, ask)
    except EOFError:  # what was answered is kept
        return
    console.print(f"{labeled:,} labeled")
    print_next("monitor")


@spinner("Reading the corrections")
def _load_review(name: str | None) -> "tuple[Review, str]":
    from relearn.serving.releases.store import resolve_name

    home = Home.from_environment()
    name = resolve_name(home, name)
    from relearn.flows.feedback import review as label_reviews

    return label_reviews.load_review(home, name), name


def _print_cards(console: Console, items: "list[ReviewItem]") -> None:
    """Print acceptable corrections as cards with their image, the others as a line with the reason."""
    from relearn.flows.terminal.terminal_image import render_half_blocks

    items_with_image = [(item, item.correction.image) for item in items if not item.rejection_reason]
    cards = []
    for item, image in items_with_image:
        card = Table.grid(padding=(0, 1))
        card.add_column(width=IMAGE_WIDTH)
        card.add_column(width=FACTS_WIDTH)
        card.add_row(
            render_half_blocks(console, image, IMAGE_WIDTH) if image is not None else "", _build_details(item)
        )
        cards.append(Padding(card, (0, 0, 1, 0)))
    console.print(Columns(cards))
    for item in (item for item in items if item.rejection_reason):
        reason = f" reported as {item.correction.label}: {_format_reason(item)}"
        console.print(Text.assemble(_format_id(item), reason), soft_wrap=True)


def _build_details(item: "ReviewItem") -> Table:
    """Return reported and predicted label, time, decision and warnings, one per row."""
    correction, grid = item.correction, Table.grid()
    grid.add_row(_format_id(item))
    grid.add_row(
        Text.assemble(
            "label ",
            (correction.label, "bold"),
            f" ({correction.reports} times)" if correction.reports > 1 else "",
        )
    )
    if correction.predicted_label is None:
        grid.add_row("no prediction logged", style="dim")
    else:
        grid.add_row(
            Text.assemble(
                "predicted ", (correction.predicted_label, "bold"), f", {correction.probability:.1%}"
            )
        )
        grid.add_row(f"by version {correction.version}", style="dim")
    grid.add_row(f"{correction.reported_at:%Y-%m-%d %H:%M}Z", style="dim")
    if item.decision:
        grid.add_row(f"decided by {item.decision.actor}", style="dim")
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
        ", ".join(f"{counts[state]} {state}" for state in STATE_COLORS if counts[state]) or "no corrections"
    )
    console.print(f"{label_review.name}: {text}")


def _print_next(label_review: "Review") -> None:
    if label_review.acceptable_items:
        print_next("feedback", "accept", "--all")
    elif label_review.new_items:
        print_next("feedback", "reject", label_review.new_items[0].correction.id[:SHORT_ID_LENGTH])


def _describe_accepted(decisions: "list[Decision]", selected_count: int) -> str:
    text = f"accepted {len(decisions)} for the next training"
    return text + (
        f"; {selected_count - len(decisions)} were already accepted"
        if selected_count > len(decisions)
        else ""
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
    write_figure(path, plot_contact_sheet(f"User corrections for {name}", sheet_cells), "png")


def _format_caption(item: "ReviewItem") -> tuple[str, ...]:
    correction = item.correction
    prediction = (
        f"predicted {correction.predicted_label} {correction.probability:.0%}"
        if correction.predicted_label is not None
        else "no prediction logged"
    )
    return f"{correction.id[:SHORT_ID_LENGTH]}", f"label {correction.label}", prediction
