"""`relearn compare`: runs side by side, how they learned, and which of two is better."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from relearn.flows.rendering import Table, check_output, two_sides, write_figure
from relearn.model import atomic
from relearn.model.errors import InputError
from relearn.model.home import Home

if TYPE_CHECKING:
    import pandas as pd

    from relearn.flows.paired import Paired
NAMES, RUN = 24, 14  # characters across: names of metrics and settings, and one run beside them
FIGURES = (".png", ".svg")

Columns = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]


def compare(
    *runs: str,
    name: str | None = None,
    where: str | None = None,
    sort: str | None = None,
    columns: Columns = (),
    csv: Path | None = None,
    curves: Path | None = None,
    paired: Annotated[bool, Parameter(negative=())] = False,
    on: str | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Put runs side by side, best first, with the settings in which they differ.

    Two of them stand in the order in which they are named, with the difference.

    Parameters
    ----------
    runs
        Ids, beginnings of ids or names; or versions, such as mnist@3, mnist@champion, mnist@previous or, of
        --name, just 3; all training runs by default.
    name
        Only the runs of this experiment; whose versions are meant.
    where
        Only runs that fit this filter of MLflow's, such as "params.network = 'cnn' and
        metrics.test_accuracy > 0.97".
    sort
        Metric that decides which is best; test_accuracy by default.
    columns
        Only these metrics, params or tags, instead of the usual ones.
    csv
        Also write the table to this file.
    curves
        Also draw loss and accuracy, epoch by epoch, into this file, .png or .svg.
    paired
        Let two of them answer the same images, and say which is better by more than chance. These are the
        reference images of their name or, before a release, the test images; none that either learned from.
    on
        The same, on the test images of this dataset.
    force
        Replace these files where they exist.
    """
    check_output("--csv", csv, force)
    check_output("--curves", curves, force, FIGURES)
    two = paired or on is not None
    if two and len(runs) != 2:
        raise InputError(f"{'--on' if on else '--paired'}: got {len(runs)} runs, accepted: two of them")
    from relearn.flows.compare import compare as side_by_side

    home, console = Home.from_environment(), Console()
    order = sort or (None if len(runs) == 2 else "test_accuracy")
    table = side_by_side(home, runs, name, order, where, columns)
    if csv is not None:
        atomic.write_bytes(csv, table.to_csv(index=False).encode())
    if curves is not None:
        from relearn.flows.compare import curves as drawn

        write_figure(curves, drawn(home, list(table.index)))
    _show(console, table, f"best first, by {order}" if order else "side by side")
    if len(table.attrs["datasets"]) > 1:
        console.print("These runs were tested on different data: their figures do not compare.")
    if two:
        from relearn.flows.paired import paired as answer

        _tell(console, answer(home, runs, name, on))
    for file in filter(None, (csv, curves)):
        console.print(str(file), style="dim", soft_wrap=True, highlight=False)


def _show(console: Console, table: "pd.DataFrame", title: str) -> None:
    if len(table) == 2:
        first, second = table.drop(columns="run").to_dict("records")
        tables = iter([two_sides(table["run"].tolist(), first, second, title)])
    else:
        tables = _fitting(table, console, title)
    for one in tables:
        if not console.is_terminal:
            console.width = _wanted(one, console)
        console.print(one)


def _tell(console: Console, done: "Paired") -> None:
    """What both answered to the same images."""
    one = done.comparison
    left, right = (evaluation.metrics for evaluation in done.evaluations)
    sides = {**left, "right alone": one.lost}, {**right, "right alone": one.gained}
    console.print(two_sides(done.labels, *sides, f"{one.images:,} {done.images}"))
    if done.left_out:
        console.print(f"{done.left_out:,} {done.images} are left out: one of the two has learned from them.")
    console.print(f"[bold]{escape(done.verdict)}[/]: {one}, p = {one.p_value:.2g}")


def _fitting(runs: "pd.DataFrame", console: Console, title: str) -> Iterator[Table]:
    """One row a run; where the terminal is too narrow for that, one column a run, a few side by side."""
    wide = Table.from_frame(runs, title)
    if not console.is_terminal or _wanted(wide, console) <= console.width:
        yield wide
        return
    side_by_side = max(1, (console.width - NAMES) // RUN)
    for first in range(0, len(runs), side_by_side):
        some = runs.iloc[first : first + side_by_side].set_index("run").T
        yield Table.from_frame(some.rename_axis("").reset_index(), title)


def _wanted(shown: Table, console: Console) -> int:
    return console.measure(shown, options=console.options.update(width=10_000)).maximum
