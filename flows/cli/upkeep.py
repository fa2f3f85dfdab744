"""`relearn prune`: what nobody needs any more goes."""

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from model.errors import InputError
from model.home import Home


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
    from flows import retention

    home = Home.from_environment()
    found = retention.superfluous(home, keep) if dry_run else list(retention.prune(home, keep))
    table = Table("what", "of", "size")
    for one in found:
        table.add_row(one.kind, escape(one.name), decimal(one.bytes))
    console = Console(highlight=False)
    if found:
        console.print(table)
    total = sum(one.bytes for one in found)
    console.print(f"{total:,} bytes {'would be' if dry_run else 'are'} freed")
