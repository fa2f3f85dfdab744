"""`relearn eda`: the data, looked at."""

import io
from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from model import atomic
from model.config import TrainConfig
from model.home import Home
from model.look import tables, verdict
from model.look_plots import figures
from model.prepared import prepare

Config = Annotated[TrainConfig, Parameter(name="*")]

MOST_ROWS, MOST_COLUMNS = 20, 13  # of a table on the screen; its file has all


def eda(*, images: int = 9, output: Path | None = None, config: Config = TrainConfig()) -> None:
    """Look at the data: splits, images, labels, pixels; as tables, and as files.

    Parameters
    ----------
    images
        How many random images to show; another `--seed` shows others.
    output
        Folder for the figures and tables; `eda/NAME` in the home by default.
    """
    home, console = Home.from_environment(), Console()
    prepared = prepare(config, home)
    pictures = figures(prepared, images, config.seed)
    found = tables(prepared)
    folder = output or home.eda / (config.name or prepared.name)
    files = []
    for name, figure in pictures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png")
        files.append(_write(folder / f"{name}.png", content.getvalue()))
    for name, table in found.items():
        files.append(_write(folder / f"{name}.csv", table.to_csv(index=False).encode()))
    channels, height, width = prepared.shape
    console.print(
        f"[bold]{prepared.source}[/]: {len(prepared.classes)} classes, images of {channels} × {height} × "
        f"{width} (channels, height, width), fingerprint {prepared.fingerprint[:12]}",
        highlight=False,
    )
    if prepared.rebuilt:
        console.print(f"[yellow]warning[/] prepared anew: {prepared.rebuilt}")
    _show(console, found["splits"], "Splits")
    _show(console, found["labels"], "Labels")
    console.print(f"Classes are {verdict(found['labels'])}")
    _show(console, found["pixels"], "Pixels as stored")
    _show(console, found["preprocessing"], "Before and after preprocessing")
    _show(console, found["one_hot"], "Labels as one-hot rows")
    if len(found["findings"]):
        _show(console, found["findings"], "Findings")
    else:
        console.print("No findings: labels, classes, duplicates, constant images, leaks are in order.")
    for file in files:
        console.print(str(file), soft_wrap=True, highlight=False)


def _write(file: Path, content: bytes) -> Path:
    atomic.write_bytes(file, content)
    return file


def _show(console: Console, table: pd.DataFrame, title: str) -> None:
    columns, rows = list(table.columns[:MOST_COLUMNS]), table.head(MOST_ROWS)
    shown = Table(title=title, title_justify="left", title_style="bold")
    for name, kind in zip(columns, table.dtypes, strict=False):
        shown.add_column(str(name), justify="right" if pd.api.types.is_numeric_dtype(kind) else "left")
    for row in rows.itertuples(index=False):
        shown.add_row(*(_cell(name, value) for name, value in zip(columns, row, strict=False)))
    console.print(shown)
    if len(rows) < len(table) or len(columns) < len(table.columns):
        console.print(
            f"The first {len(rows)} of {len(table)} rows, {len(columns)} of {len(table.columns)} columns."
        )


def _cell(column: str, value: object) -> str:
    if column in ("share", "dark"):
        return f"{value:.2%}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
