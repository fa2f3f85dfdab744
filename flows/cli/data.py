"""`relearn eda`: the data, looked at."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter
from rich.console import Console

from relearn.flows.rendering import Table, write_figure
from relearn.model import atomic
from relearn.model.config import TrainConfig
from relearn.model.errors import InputError
from relearn.model.home import Home
from relearn.model.look import tables, verdict
from relearn.model.look_plots import figures
from relearn.model.prepared import Prepared, prepare

Config = Annotated[TrainConfig, Parameter(name="*")]

TITLES = {
    "splits": "Splits",
    "labels": "Labels",
    "pixels": "Pixels as stored",
    "preprocessing": "Before and after preprocessing",
    "one_hot": "Labels as one-hot rows",
}
MOST_ROWS, MOST_COLUMNS = 20, 13  # of a table on the screen; its file has all


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
        raise InputError(f"--output: {output} is there and not empty, accepted: a new or an empty folder")
    prepared = prepare(config, home)
    pictures, found = figures(prepared, images, config.seed), tables(prepared)
    folder = output or home.eda / (config.name or prepared.name)
    for name, figure in pictures.items():
        write_figure(folder / f"{name}.png", figure)
    for name, table in found.items():
        atomic.write_bytes(folder / f"{name}.csv", table.to_csv(index=False).encode())
    console = Console(markup=False, highlight=False)
    _print(console, prepared, found)
    for file in (*(f"{name}.png" for name in pictures), *(f"{name}.csv" for name in found)):
        console.print(str(folder / file), soft_wrap=True)


def _print(console: Console, prepared: Prepared, found: dict[str, pd.DataFrame]) -> None:
    channels, height, width = prepared.shape
    console.print(
        f"{prepared.source}: {len(prepared.classes)} classes, images of {channels} × {height} × {width} "
        f"(channels, height, width), fingerprint {prepared.fingerprint[:12]}"
    )
    if prepared.rebuilt:
        console.print(f"warning: prepared anew, since {prepared.rebuilt}", style="yellow")
    for name, title in TITLES.items():
        _show(console, found[name], title)
        if name == "labels":
            console.print(f"Classes are {verdict(found['labels'])}")
    if len(found["findings"]):
        _show(console, found["findings"], "Findings")
    else:
        console.print("No findings: labels, classes, duplicates, constant images, leaks are in order.")


def _show(console: Console, table: pd.DataFrame, title: str) -> None:
    shown = table.iloc[:MOST_ROWS, :MOST_COLUMNS].copy()
    for share in {"share", "dark"} & set(shown):
        shown[share] = shown[share].map("{:.2%}".format)
    console.print(Table.from_frame(shown, title))
    if shown.shape != table.shape:
        (rows, columns), (all_rows, all_columns) = shown.shape, table.shape
        console.print(f"The first {rows} of {all_rows} rows, {columns} of {all_columns} columns.")
