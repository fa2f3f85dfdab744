"""`relearn status`, `config`, `doctor` and `prune`: how things are, and what nobody needs any more."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import rich.table
from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.text import Text

from relearn.flows import cli
from relearn.flows.environment import honored, masked
from relearn.flows.rendering import Table
from relearn.flows.settings import Settings
from relearn.model.errors import InputError, IntegrityError, MachineError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.doctor import Found

MARKS = {"well": ("✓", "green"), "away": ("·", "dim"), "warning": ("!", "yellow"), "fails": ("✗", "red")}
SECRET = re.compile("KEY|TOKEN|PASSWORD|AUTH|HEADERS")  # in the name of a variable
LABEL = 13  # characters of the widest label


def status() -> None:
    """Tell on one screen what is live, what runs, what came of the last retraining and when the next one is.

    What does not answer is told in its line.
    """
    from relearn.flows.status import status as lines

    console, about = _console(), ""
    for line in lines(Home.from_environment()):
        if line.about != about:
            about = line.about
            console.print(Text(about, style="bold"))
        console.print(_row(Text(f"  {line.label}", style="dim"), Text(line.told), LABEL))


def _console() -> Console:
    """Outside of a terminal each thing told is one line, for those who search in it."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=10_000)


def _row(label: Text, told: Text, width: int) -> rich.table.Table:
    """What is told wraps beside its label."""
    row = rich.table.Table.grid(padding=(0, 1))
    row.add_column(width=width)
    row.add_row(label, told)
    return row


def config(*, settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:
    """Print the effective settings with their origin, and the variables of the tools that have an effect."""
    rows = [
        (
            name,
            "" if (value := getattr(settings, name)) is None else str(value),
            cli.sources.get(name, "default"),
            str(field.description),
        )
        for name, field in Settings.model_fields.items()
    ]
    console = Console()
    console.print(Table(("setting", "value", "from", "meaning"), rows))
    if variables := honored():
        secret = {name: "…" if SECRET.search(name) else masked(value) for name, value in variables.items()}
        title = "set by others, and of effect here"
        console.print(Table(("variable", "value"), list(secret.items()), title))


def prune(*, keep: int, dry_run: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Remove old versions, files of old runs and checkpoints that nobody needs.

    Never what is live, what a rollback would bring back, what a server serves, what has an alias in MLflow,
    or what is under way. Params, metrics and the history stay.

    Parameters
    ----------
    keep
        How many of the newest versions and trainings of each name stay as well.
    dry_run
        Only tell what would go.
    """
    if keep < 1:
        raise InputError(f"--keep: got {keep}, accepted: 1 or more")
    from relearn.flows import retention

    home = Home.from_environment()
    found = retention.superfluous(home, keep) if dry_run else list(retention.prune(home, keep))
    console = Console(highlight=False)
    if found:
        rows = [(one.kind, one.name, decimal(one.bytes)) for one in found]
        console.print(Table(("what", "of", "size"), rows))
    total = sum(one.bytes for one in found)
    console.print(f"{total:,} bytes {'would be' if dry_run else 'are'} freed")


def doctor(*, settings: Annotated[Settings, Parameter(name="*", show=False)] = Settings()) -> None:
    """Test every seam with the machine and its tools, and say how to mend what fails. Nothing is changed.

    The settings are read as for any verb, and refused where one is not valid.

    The exit code is 0 where nothing fails, 3 where something of the machine does, 4 where something is not
    what was written.
    """
    from relearn.flows.doctor import examine

    console, seam = _console(), ""
    found = []
    for one in examine(Home.from_environment()):
        if one.seam != seam:
            seam = one.seam
            console.print(f"[bold]{seam}[/]")
        _tell(console, one)
        found.append(one)
    states = Counter(one.state for one in found)
    console.print(f"{states['well']} well, {states['warning']} to look at, {states['fails']} failing")
    failing = [one for one in found if one.state == "fails"]
    if failing:
        told = ", ".join(dict.fromkeys(f"{one.seam} {one.check}" for one in failing))
        integrity = any(one.exit_code == IntegrityError.exit_code for one in failing)
        kind = IntegrityError if integrity else MachineError
        raise kind(f"not well: {told}; how to mend it stands above")


def _tell(console: Console, one: "Found") -> None:
    """Mark, check, what was found; how to mend it on a line of its own, not broken, so it can be copied."""
    mark, style = MARKS[one.state]
    label = Text.assemble(("  " + mark, style), f" {one.check}")
    told = Text(f"{one.about}: {one.told}" if one.about else one.told, "dim" if one.state == "away" else "")
    console.print(_row(label, told, LABEL))
    if one.mend:
        console.print(f"{'':{LABEL + 1}}→ {escape(one.mend)}", style="bold", soft_wrap=True)
