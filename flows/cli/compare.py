"""`relearn compare`: runs side by side, learning curves, paired test of two runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from relearn.flows.cli.parameters import Json
from relearn.flows.terminal.console import make_console, print_json, print_note, spinner
from relearn.flows.terminal.rendering import Table, build_comparison_table, check_output, write_figure
from relearn.model.errors import UserInputError
from relearn.model.files import to_csv, write_bytes_atomically
from relearn.model.home import Home

if TYPE_CHECKING:
    import pandas as pd

    from relearn.flows.evaluation.paired_comparison import PairedTest
LABEL_WIDTH, RUN_WIDTH = 24, 14  # characters: the column of metric and setting names, the column of a run
FIGURE_SUFFIXES = (".png", ".svg")

Columns = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]


@spinner("Comparing runs")
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
    json: Json = False,
) -> None:
    """Compare runs side by side, best first, with the settings in which they differ.

    Two runs are shown in the order given, with the difference of each metric.

    Example: `relearn compare digits@champion 5b117b61 --paired`

    Parameters
    ----------
    runs
        Run ids, beginnings of ids or run names; or versions such as mnist@3, mnist@champion, mnist@previous
        or, with --model-name, just 3. Default: all training runs.
    model_name
        Model name: only runs of its experiment, and the name that version numbers belong to.
    filter
        MLflow filter, such as 'params.network = "cnn" and metrics."test/accuracy" > 0.97'.
    order_by
        Metric to sort by; test/accuracy by default.
    columns
        Metrics, params or tags to show instead of the default ones.
    csv
        Also write the table to this file.
    curves
        Also plot loss and accuracy per epoch to this file, .png or .svg.
    paired
        Test two runs on the same images for a significant difference: the reference images of their model
        name or, before a release, the test images. Images that either was trained on are left out.
    dataset
        Like --paired, on the test images of this dataset.
    force
        Replace these files if they exist.
    """
    check_output("--csv", csv, force)
    check_output("--curves", curves, force, FIGURE_SUFFIXES)
    is_paired = paired or dataset is not None
    if is_paired and len(runs) != 2:
        raise UserInputError(f"{'--dataset' if dataset else '--paired'}: got {len(runs)} runs, accepted: two")
    from relearn.flows.evaluation.compare import compare_runs, plot_curves

    home, console = Home.from_environment(), make_console()
    sort_metric = order_by or (None if len(runs) == 2 else "test/accuracy")
    table = compare_runs(home, runs, model_name, sort_metric, filter, columns)
    if csv is not None:
        write_bytes_atomically(csv, to_csv(table).encode())
    if curves is not None:
        write_figure(curves, plot_curves(home, list(table.index)))
    paired_test = None
    if is_paired:
        from relearn.flows.evaluation.paired_comparison import run_paired_test

        paired_test = run_paired_test(home, runs, model_name, dataset)
    if json:
        print_json(_to_json(table, paired_test))
        return
    _print_table(console, table, f"best first, by {sort_metric}" if sort_metric else "side by side")
    if len(table.attrs["datasets"]) > 1:
        console.print("These runs were tested on different data: their metrics cannot be compared.")
    if paired_test:
        _print_paired_test(console, paired_test)
    for file in (file for file in (csv, curves) if file):
        print_note(str(file), style="dim")


def _to_json(runs: "pd.DataFrame", paired_test: "PairedTest | None") -> dict[str, object]:
    """Return the runs, each with its id, the number of data sets they were tested on, and the paired test."""
    content: dict[str, object] = {
        "runs": runs.rename_axis("run_id").reset_index(),
        "test_datasets": len(runs.attrs["datasets"]),
    }
    if paired_test:
        content["paired_test"] = {
            "labels": paired_test.labels,
            "images": paired_test.images,
            "excluded": paired_test.excluded,
            "metrics": [evaluation.metrics for evaluation in paired_test.evaluations],
            "comparison": paired_test.comparison,
            "p_value": paired_test.comparison.p_value,
            "conclusion": paired_test.conclusion,
        }
    return content


def _print_table(console: Console, table: "pd.DataFrame", title: str) -> None:
    if len(table) == 2:
        first, second = table.drop(columns="run").to_dict("records")
        tables = iter([build_comparison_table(table["run"].tolist(), first, second, title)])
    else:
        tables = _build_run_tables(table, console, title)
    for rich_table in tables:
        if not console.is_terminal:
            console.width = _measure_width(rich_table, console)
        console.print(rich_table)


def _print_paired_test(console: Console, result: "PairedTest") -> None:
    """Print the metrics of both runs on the same images, and the conclusion."""
    comparison = result.comparison
    left, right = (evaluation.metrics for evaluation in result.evaluations)
    sides = (
        {**left, "only it correct": comparison.champion_only_correct},
        {**right, "only it correct": comparison.candidate_only_correct},
    )
    console.print(build_comparison_table(result.labels, *sides, f"{comparison.images:,} {result.images}"))
    if result.excluded:
        console.print(
            f"{result.excluded:,} {result.images} are excluded: one of the two was trained on them."
        )
    console.print(Text.assemble((result.conclusion, "bold"), f": {comparison}, p = {comparison.p_value:.2g}"))


def _build_run_tables(runs: "pd.DataFrame", console: Console, title: str) -> Iterator[Table]:
    """Yield one table with a row per run; on a narrow terminal, tables with a column per run."""
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
