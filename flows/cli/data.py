"""`relearn eda`: the data, looked at."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from relearn.model import atomic
from relearn.model.config import TrainConfig
from relearn.model.errors import InputError
from relearn.model.home import Home
from relearn.model.look import tables, verdict
from relearn.model.look_plots import figures
from relearn.model.prepared import Prepared, prepare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Config = Annotated[TrainConfig, Parameter(name="*")]

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
    files = _write(output or home.eda / (config.name or prepared.name), pictures, found)
    _print(Console(markup=False, highlight=False), prepared, found, files)


def _write(folder: Path, pictures: "dict[str, Figure]", found: dict[str, pd.DataFrame]) -> list[Path]:
    contents = {f"{name}.png": _png(figure) for name, figure in pictures.items()}
    contents |= {f"{name}.csv": table.to_csv(index=False).encode() for name, table in found.items()}
    for name, content in contents.items():
        atomic.write_bytes(folder / name, content)
    return [folder / name for name in contents]


def _png(figure: "Figure") -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _print(console: Console, prepared: Prepared, found: dict[str, pd.DataFrame], files: list[Path]) -> None:
    channels, height, width = prepared.shape
    console.print(
        f"{prepared.source}: {len(prepared.classes)} classes, images of {channels} × {height} × {width} "
        f"(channels, height, width), fingerprint {prepared.fingerprint[:12]}"
    )
    if prepared.rebuilt:
        console.print(f"warning: prepared anew, since {prepared.rebuilt}", style="yellow")
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
        console.print(str(file), soft_wrap=True)


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
