"""`relearn compare`: runs side by side, how they learned, and which of two is better."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from relearn.flows.console import make_console
from relearn.flows.rendering import Table, check_output, two_sides, write_figure
from relearn.model.errors import UserInputError
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home

if TYPE_CHECKING:
    import pandas as pd

    from relearn.flows.evaluation.paired_test import Paired
LABEL_WIDTH, RUN_WIDTH = 24, 14  # characters across: names of metrics and settings, and one run beside them
FIGURE_SUFFIXES = (".png", ".svg")

Columns = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]


def compare(
    *runs: str,
    model_name: str | None = None,
    filter: str | None = None,
    order_by: str | None = None,
    columns: Columns = (),
    csv: Path | None = None,
    curves: Path | None = None,
    paired: Annotated[bool, Parameter(negative=())] = False,
    dataset: str | None = None,
    force: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Put runs side by side, best first, with the settings in which they differ.

    Two of them stand in the order in which they are named, with the difference.

    Parameters
    ----------
    runs
        Ids, beginnings of ids or names; or versions, such as mnist@3, mnist@champion, mnist@previous or, of
        --model-name, just 3; all training runs by default.
    model_name
        Only the runs of this experiment; whose versions are meant.
    filter
        Only runs that fit this filter of MLflow's, such as "params.network = 'cnn' and
        metrics.test_accuracy > 0.97".
    order_by
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
    dataset
        The same, on the test images of this dataset.
    force
        Replace these files where they exist.
    """
    check_output("--csv", csv, force)
    check_output("--curves", curves, force, FIGURE_SUFFIXES)
    is_paired = paired or dataset is not None
    if is_paired and len(runs) != 2:
        raise UserInputError(
            f"{'--dataset' if dataset else '--paired'}: got {len(runs)} runs, accepted: two of them"
        )
    from relearn.flows.evaluation.compare import compare as side_by_side

    home, console = Home.from_environment(), make_console()
    sort_metric = order_by or (None if len(runs) == 2 else "test_accuracy")
    table = side_by_side(home, runs, model_name, sort_metric, filter, columns)
    if csv is not None:
        write_bytes_atomically(csv, table.to_csv(index=False).encode())
    if curves is not None:
        from relearn.flows.evaluation.compare import curves as drawn

        write_figure(curves, drawn(home, list(table.index)))
    _print_table(console, table, f"best first, by {sort_metric}" if sort_metric else "side by side")
    if len(table.attrs["datasets"]) > 1:
        console.print("These runs were tested on different data: their figures do not compare.")
    if is_paired:
        from relearn.flows.evaluation.paired_test import paired as answer

        _print_paired_test(console, answer(home, runs, model_name, dataset))
    for file in (file for file in (csv, curves) if file):
        console.print(str(file), style="dim", soft_wrap=True)


def _print_table(console: Console, table: "pd.DataFrame", title: str) -> None:
    if len(table) == 2:
        first, second = table.drop(columns="run").to_dict("records")
        tables = iter([two_sides(table["run"].tolist(), first, second, title)])
    else:
        tables = _build_run_tables(table, console, title)
    for rich_table in tables:
        if not console.is_terminal:
            console.width = _measure_width(rich_table, console)
        console.print(rich_table)


def _print_paired_test(console: Console, result: "Paired") -> None:
    """What both answered to the same images."""
    comparison = result.comparison
    left, right = (evaluation.metrics for evaluation in result.evaluations)
    sides = (
        {**left, "right alone": comparison.champion_only_correct},
        {**right, "right alone": comparison.candidate_only_correct},
    )
    console.print(two_sides(result.labels, *sides, f"{comparison.images:,} {result.images}"))
    if result.left_out:
        console.print(
            f"{result.left_out:,} {result.images} are left out: one of the two has learned from them."
        )
    console.print(Text.assemble((result.verdict, "bold"), f": {comparison}, p = {comparison.p_value:.2g}"))


def _build_run_tables(runs: "pd.DataFrame", console: Console, title: str) -> Iterator[Table]:
    """One row a run; where the terminal is too narrow for that, one column a run, a few side by side."""
    wide_table = Table.from_frame(runs, title)
    if not console.is_terminal or _measure_width(wide_table, console) <= console.width:
        yield wide_table
        return
    runs_per_table = max(1, (console.width - LABEL_WIDTH) // RUN_WIDTH)
    for start in range(0, len(runs), runs_per_table):
        subset = runs.iloc[start : start + runs_per_table].set_index("run").T
        yield Table.from_frame(subset.rename_axis("").reset_index(), title)


def _measure_width(rich_table: Table, console: Console) -> int:
    return console.measure(rich_table, options=console.options.update(width=10_000)).maximum
