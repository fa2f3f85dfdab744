"""`relearn status`, `config`, `doctor` and `prune`: how things are, and what nobody needs any more."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import rich.table
from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from relearn.flows.cli.setting_origins import setting_origins
from relearn.flows.config import Settings
from relearn.flows.console import make_console
from relearn.flows.environment import redact_password, user_variables
from relearn.flows.rendering import Table
from relearn.model.errors import CorruptDataError, InfrastructureError, UserInputError
from relearn.model.home import Home

if TYPE_CHECKING:
    from relearn.flows.ops.checks.check import CheckResult

STATE_MARKS = {
    "ok": ("✓", "green"),
    "skipped": ("·", "dim"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}
SECRET = re.compile("KEY|TOKEN|PASSWORD|AUTH|HEADERS")  # in the name of a variable
LABEL_WIDTH = 17  # characters of the widest label


def status() -> None:
    """Tell on one screen what is live, what runs, what came of the last retraining and when the next one is.

    What does not answer is told in its line.
    """
    from relearn.flows.ops.status import status as lines

    console, subject = _make_wide_console(), ""
    for line in lines(Home.from_environment()):
        if line.subject != subject:
            subject = line.subject
            console.print(Text(subject, style="bold"))
        console.print(_build_row(Text(f"  {line.label}", style="dim"), Text(line.text), LABEL_WIDTH))


def _make_wide_console() -> Console:
    """Outside of a terminal each thing told is one line, for those who search in it."""
    console = make_console()
    return console if console.is_terminal else make_console(width=10_000)


def _build_row(label: Text, text: Text, width: int) -> rich.table.Table:
    """What is told wraps beside its label."""
    row = rich.table.Table.grid(padding=(0, 1))
    row.add_column(width=width)
    row.add_row(label, text)
    return row


def config(*, settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:
    """Print the effective settings with their origin, and the variables of the tools that have an effect."""
    rows = [
        (
            name,
            "" if (value := getattr(settings, name)) is None else str(value),
            setting_origins.get(name, "default"),
            str(field.description),
        )
        for name, field in Settings.model_fields.items()
    ]
    console = make_console()
    console.print(Table(("setting", "value", "from", "meaning"), rows))
    if variables := user_variables():
        secret = {
            name: "…" if SECRET.search(name) else redact_password(value) for name, value in variables.items()
        }
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
        raise UserInputError(f"--keep: got {keep}, accepted: 1 or more")
    from relearn.flows.ops import prune as retention

    home = Home.from_environment()
    prunables = retention.find_prunable(home, keep) if dry_run else list(retention.prune(home, keep))
    console = make_console()
    if prunables:
        rows = [(prunable.kind, prunable.name, decimal(prunable.size_bytes)) for prunable in prunables]
        console.print(Table(("what", "of", "size"), rows))
    total = sum(prunable.size_bytes for prunable in prunables)
    console.print(f"{total:,} bytes {'would be' if dry_run else 'are'} freed")


def doctor(*, settings: Annotated[Settings, Parameter(name="*", show=False)] = Settings()) -> None:
    """Test every seam with the machine and its tools, and say how to mend what fails. Nothing is changed.

    The settings are read as for any verb, and refused where one is not valid.

    The exit code is 0 where nothing fails, 3 where something of the machine does, 4 where something is not
    what was written.
    """
    from relearn.flows.ops.doctor import run_checks

    console, group = _make_wide_console(), ""
    results = []
    for result in run_checks(Home.from_environment()):
        if result.group != group:
            group = result.group
            console.print(group, style="bold")
        _print_result(console, result)
        results.append(result)
    states = Counter(result.state for result in results)
    console.print(f"{states['ok']} ok, {states['warning']} warnings, {states['failed']} failed")
    failures = [result for result in results if result.state == "failed"]
    if failures:
        failed_checks = ", ".join(dict.fromkeys(f"{result.group} {result.check}" for result in failures))
        has_corrupt_data = any(result.exit_code == CorruptDataError.exit_code for result in failures)
        error_class = CorruptDataError if has_corrupt_data else InfrastructureError
        raise error_class(f"not well: {failed_checks}; how to mend it stands above")


def _print_result(console: Console, result: "CheckResult") -> None:
    """Mark, check, what was found; how to mend it on a line of its own, not broken, so it can be copied."""
    mark, style = STATE_MARKS[result.state]
    label = Text.assemble(("  " + mark, style), f" {result.check}")
    text = Text(
        f"{result.subject}: {result.message}" if result.subject else result.message,
        "dim" if result.state == "skipped" else "",
    )
    console.print(_build_row(label, text, LABEL_WIDTH))
    if result.fix:
        console.print(f"{'':{LABEL_WIDTH + 1}}→ {result.fix}", style="bold", soft_wrap=True)
