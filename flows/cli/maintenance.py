"""`relearn status`, `config`, `doctor` and `prune`: inspection and cleanup."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import rich.table
from cyclopts import Parameter
from pydantic import BaseModel
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from relearn.flows.cli.config_sources import config_sources
from relearn.flows.config import MonitorConfig, PromotionConfig, Settings
from relearn.flows.console import make_console
from relearn.flows.environment import redact_password, user_variables
from relearn.flows.rendering import Table
from relearn.model.config import TrainConfig
from relearn.model.errors import CorruptDataError, InfrastructureError, UserInputError
from relearn.model.home import Home
from relearn.serving.config import ServeConfig

if TYPE_CHECKING:
    from relearn.flows.ops.checks.check import CheckResult

STATE_MARKS = {
    "ok": ("✓", "green"),
    "skipped": ("·", "dim"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "red"),
}
SECRET = re.compile("KEY|TOKEN|PASSWORD|AUTH|HEADERS")  # in names of variables whose value is not printed
SETTINGS_TABLES: dict[str, type[BaseModel]] = {
    "Training": TrainConfig,
    "Promotion gate": PromotionConfig,
    "Monitoring": MonitorConfig,
    "Serving": ServeConfig,
}
LABEL_WIDTH = 17  # characters of the widest label


def status() -> None:
    """Show the live version, the services, and the last and next retraining on one screen.

    A service that does not respond is reported in its own line.
    """
    from relearn.flows.ops.status import status as query_status

    console, subject = _make_wide_console(), ""
    for line in query_status(Home.from_environment()):
        if line.subject != subject:
            subject = line.subject
            console.print(Text(subject, style="bold"))
        console.print(_build_row(Text(f"  {line.label}", style="dim"), Text(line.text), LABEL_WIDTH))


def _make_wide_console() -> Console:
    """Return a console that never wraps outside of a terminal, so that every result is one line for grep."""
    console = make_console()
    return console if console.is_terminal else make_console(width=10_000)


def _build_row(label: Text, text: Text, width: int) -> rich.table.Table:
    """Return label and text side by side; the text wraps in its own column."""
    row = rich.table.Table.grid(padding=(0, 1))
    row.add_column(width=width)
    row.add_row(label, text)
    return row


def config(*, settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:
    """Print the effective settings with their sources, and the variables of the tools that have an effect."""
    console = _make_wide_console()
    for title, table in SETTINGS_TABLES.items():
        rows = [
            (
                name,
                "" if (value := getattr(settings, name)) is None else str(value),
                config_sources.get(name, "default"),
                str(field.description),
            )
            for name, field in table.model_fields.items()
        ]
        console.print(Table(("setting", "value", "from", "meaning"), rows, title))
    redacted = [
        (name, "…" if SECRET.search(name) else redact_password(value))
        for name, value in user_variables().items()
    ]
    if redacted:
        console.print(Table(("variable", "value"), redacted, "Other variables with an effect"))


def prune(*, keep: int, dry_run: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Remove old versions, files of old runs and checkpoints that are no longer needed.

    Always kept: the live version, the rollback target, versions in use by a server or with an MLflow alias,
    and running trainings. Params, metrics and the release history are kept, too.

    Parameters
    ----------
    keep
        Number of newest versions and trainings to keep per model name.
    dry_run
        Only print what would be removed.
    """
    if keep < 1:
        raise UserInputError(f"--keep: got {keep}, accepted: 1 or more")
    from relearn.flows.ops import prune as pruning

    home = Home.from_environment()
    prunables = pruning.find_prunable(home, keep) if dry_run else list(pruning.prune(home, keep))
    console = make_console()
    if prunables:
        rows = [(prunable.kind, prunable.name, decimal(prunable.size_bytes)) for prunable in prunables]
        console.print(Table(("kind", "name", "size"), rows))
    total = sum(prunable.size_bytes for prunable in prunables)
    console.print(f"{total:,} bytes {'would be' if dry_run else 'are'} freed")


def doctor(*, settings: Annotated[Settings, Parameter(name="*", show=False)] = Settings()) -> None:
    """Check the machine, the tools and the stored data, and print a fix for each failure. Nothing is changed.

    Settings are validated as for any command.

    Exit codes: 0 without failures, 3 for a failure of the machine or a tool, 4 for corrupt data.
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
        raise error_class(f"failed checks: {failed_checks}; each fix is printed above")


def _print_result(console: Console, result: "CheckResult") -> None:
    """Print mark, check and message; the fix on a line of its own, not wrapped, so it can be copied."""
    mark, style = STATE_MARKS[result.state]
    label = Text.assemble(("  " + mark, style), f" {result.check}")
    text = Text(
        f"{result.subject}: {result.message}" if result.subject else result.message,
        "dim" if result.state == "skipped" else "",
    )
    console.print(_build_row(label, text, LABEL_WIDTH))
    if result.fix:
        console.print(f"{'':{LABEL_WIDTH + 1}}→ {result.fix}", style="bold", soft_wrap=True)
