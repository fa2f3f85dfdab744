"""`relearn compare`: runs side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from model import atomic
from model.errors import InputError
from model.home import Home

if TYPE_CHECKING:
    import pandas as pd

NAMES, RUN = 24, 14  # characters across: names of metrics and settings, and one run beside them


def compare(
    *runs: str,
    name: str | None = None,
    sort: str = "test_accuracy",
    csv: Path | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Put runs side by side, best first, with the settings in which they differ.

    Parameters
    ----------
    runs
        Ids, beginnings of ids or names; all training runs by default.
    name
        Only the runs of this experiment.
    sort
        Metric that decides which is best.
    csv
        Also write the table to this file.
    force
        Replace that file where it exists.
    """
    if csv is not None and (csv.is_dir() or (csv.exists() and not force)):
        raise InputError(f"--csv: {csv} exists; add --force to replace a file")
    from flows.compare import compare as side_by_side

    table = side_by_side(Home.from_environment(), runs, name, sort)
    if csv is not None:
        atomic.write_bytes(csv, table.to_csv(index=False).encode())
    console = Console()
    for shown in _fitting(table.map(_cell), console, f"best first, by {sort}"):
        if not console.is_terminal:
            console.width = _wanted(shown, console)
        console.print(shown)
    if table["dataset"].nunique() > 1:
        console.print("These runs were tested on different datasets: their figures do not compare.")


def _fitting(cells: "pd.DataFrame", console: Console, title: str) -> Iterator[Table]:
    """One row a run; where the terminal is too narrow for that, one column a run, a few side by side."""
    wide = Table(*(Column(name, no_wrap=True) for name in cells.columns), title=title)
    for row in cells.itertuples(index=False):
        wide.add_row(*row)
    if not console.is_terminal or _wanted(wide, console) <= console.width:
        yield wide
        return
    side_by_side = max(1, (console.width - NAMES) // RUN)
    for first in range(0, len(cells), side_by_side):
        some = cells.iloc[first : first + side_by_side].set_index("run").T
        tall = Table(Column("", no_wrap=True), *some.columns, title=title)
        for row in some.reset_index().itertuples(index=False):
            tall.add_row(*row)
        yield tall


def _wanted(shown: Table, console: Console) -> int:
    return console.measure(shown, options=console.options.update(width=10_000)).maximum


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"  # noqa: PLR0124  # NaN alone differs from itself
    return escape(str(value))
