"""`relearn eda`: the data, looked at."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter
from rich.console import Console

from relearn.flows.console import make_console
from relearn.flows.rendering import Table, write_figure
from relearn.model.config import TrainConfig
from relearn.model.data.eda import tables, verdict
from relearn.model.data.prepared import PreparedDataset, prepare_dataset
from relearn.model.errors import UserInputError
from relearn.model.files import write_bytes_atomically
from relearn.model.home import Home
from relearn.model.plots.eda import plot_eda

Config = Annotated[TrainConfig, Parameter(name="*")]

TITLES = {
    "splits": "Splits",
    "labels": "Labels",
    "pixels": "Pixels as stored",
    "preprocessing": "Before and after preprocessing",
    "one_hot": "Labels as one-hot rows",
}
MAX_ROWS, MAX_COLUMNS = 20, 13  # of a table on the screen; its file has all


def eda(*, images: int = 9, output: Path | None = None, config: Config = TrainConfig()) -> None:
    """Look at the data: splits, images, labels, pixels; as tables, and as files.

    Parameters
    ----------
    images
        How many random images to show; another `--seed` shows others.
    output
        New or empty folder for the figures and tables; `eda/NAME` in the home by default.
    """
    home = Home.from_environment()
    if output is not None and (output.is_file() or (output.is_dir() and any(output.iterdir()))):
        raise UserInputError(f"--output: {output} is there and not empty, accepted: a new or an empty folder")
    prepared = prepare_dataset(config, home)
    figures_by_name, tables_by_name = plot_eda(prepared, images, config.seed), tables(prepared)
    folder = output or home.eda / (config.model_name or prepared.name)
    for name, figure in figures_by_name.items():
        write_figure(folder / f"{name}.png", figure)
    for name, table in tables_by_name.items():
        write_bytes_atomically(folder / f"{name}.csv", table.to_csv(index=False).encode())
    console = make_console()
    _print_report(console, prepared, tables_by_name)
    for file in (*(f"{name}.png" for name in figures_by_name), *(f"{name}.csv" for name in tables_by_name)):
        console.print(str(folder / file), soft_wrap=True)


def _print_report(
    console: Console, prepared: PreparedDataset, tables_by_name: dict[str, pd.DataFrame]
) -> None:
    channels, height, width = prepared.shape
    console.print(
        f"{prepared.uri}: {len(prepared.classes)} classes, images of {channels} × {height} × {width} "
        f"(channels, height, width), fingerprint {prepared.fingerprint[:12]}"
    )
    if prepared.rebuild_reason:
        console.print(f"warning: prepared anew, since {prepared.rebuild_reason}", style="yellow")
    for name, title in TITLES.items():
        _print_table(console, tables_by_name[name], title)
        if name == "labels":
            console.print(f"Classes are {verdict(tables_by_name['labels'])}")
    if len(tables_by_name["findings"]):
        _print_table(console, tables_by_name["findings"], "Findings")
    else:
        console.print("No findings: labels, classes, duplicates, constant images, leaks are in order.")


def _print_table(console: Console, table: pd.DataFrame, title: str) -> None:
    rich_table = table.iloc[:MAX_ROWS, :MAX_COLUMNS].copy()
    for share in {"share", "dark"} & set(rich_table):
        rich_table[share] = rich_table[share].map("{:.2%}".format)
    console.print(Table.from_frame(rich_table, title))
    if rich_table.shape != table.shape:
        (rows, columns), (all_rows, all_columns) = rich_table.shape, table.shape
        console.print(f"The first {rows} of {all_rows} rows, {columns} of {all_columns} columns.")
