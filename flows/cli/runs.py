"""`relearn compare`: runs side by side."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model import atomic
from model.errors import InputError
from model.home import Home


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
    shown = Table(*table.columns, title=f"best first, by {sort}")
    for row in table.itertuples(index=False):
        shown.add_row(*(_cell(value) for value in row))
    Console().print(shown)
    if table["dataset"].nunique() > 1:
        Console().print("These runs were tested on different datasets: their figures do not compare.")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"  # noqa: PLR0124  # NaN alone differs from itself
    return escape(str(value))
