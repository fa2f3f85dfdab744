"""`relearn eda`: exploratory data analysis."""

from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter
from rich.console import Console

from relearn.flows.console import image_bar, make_console
from relearn.flows.rendering import Table, write_figure
from relearn.model.config import TrainConfig
from relearn.model.data.eda import balance_summary, eda_tables
from relearn.model.data.prepared import PreparedDataset, prepare_dataset, read_image_list
from relearn.model.errors import UserInputError
from relearn.model.evaluation.label_errors import suspect_labels
from relearn.model.files import to_csv, write_bytes_atomically
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
MAX_ROWS, MAX_COLUMNS = 20, 13  # of a printed table; the file has all of them


def eda(*, images: int = 9, output: Path | None = None, config: Config = TrainConfig()) -> None:
    """Explore the data: splits, images, labels, pixels; print tables, write figures and tables to files.

    Parameters
    ----------
    images
        Number of random images to draw; `--seed` selects them.
    output
        New or empty folder for the figures and tables; `eda/MODEL_NAME` in the home by default.
    """
    home = Home.from_environment()
    if output is not None and (output.is_file() or (output.is_dir() and any(output.iterdir()))):
        raise UserInputError(f"--output: got {output}, which is not empty, accepted: a new or empty folder")
    with image_bar() as show_progress:
        prepared = prepare_dataset(config, home, on_progress=show_progress)
    figures_by_name, tables_by_name = plot_eda(prepared, images, config.seed), eda_tables(prepared)
    tables_by_name["suspected_labels"] = _list_suspected_labels(prepared)
    folder = output or home.eda / (config.model_name or prepared.name)
    for name, figure in figures_by_name.items():
        write_figure(folder / f"{name}.png", figure)
    for name, table in tables_by_name.items():
        write_bytes_atomically(folder / f"{name}.csv", to_csv(table).encode())
    console = make_console()
    _print_report(console, prepared, tables_by_name, config.image_size)
    for file in (*(f"{name}.png" for name in figures_by_name), *(f"{name}.csv" for name in tables_by_name)):
        console.print(str(folder / file), soft_wrap=True)


def _print_report(
    console: Console,
    prepared: PreparedDataset,
    tables_by_name: dict[str, pd.DataFrame],
    image_size: int | None,
) -> None:
    channels, height, width = prepared.shape
    console.print(
        f"{prepared.uri}: {len(prepared.classes)} classes, images of {channels} × {height} × {width} "
        f"(channels, height, width), fingerprint {prepared.fingerprint[:12]}"
    )
    if prepared.description:
        for line in prepared.description.summarize(image_size):
            console.print(line, soft_wrap=True)
    if prepared.rebuild_reason:
        console.print(f"warning: data prepared again, since {prepared.rebuild_reason}", style="yellow")
    for name, title in TITLES.items():
        _print_table(console, tables_by_name[name], title)
        if name == "labels":
            console.print(f"Classes are {balance_summary(tables_by_name['labels'])}")
    if len(tables_by_name["findings"]):
        _print_table(console, tables_by_name["findings"], "Findings")
    else:
        console.print("No findings about labels, classes, duplicates, constant images or leaks.")
    if len(tables_by_name["suspected_labels"]):
        _print_table(console, tables_by_name["suspected_labels"], "Labels that are probably wrong")
    else:
        console.print("No label is suspected to be wrong.")


def _list_suspected_labels(prepared: PreparedDataset) -> pd.DataFrame:
    """Return the table of `suspect_labels`, with the file or row of each image."""
    images = read_image_list(prepared.folder)
    images["index"] = images.groupby("split").cumcount()
    suspected = suspect_labels(prepared.splits, prepared.classes)
    return suspected.merge(images[["split", "index", "file"]], how="left")


def _print_table(console: Console, table: pd.DataFrame, title: str) -> None:
    excerpt = table.iloc[:MAX_ROWS, :MAX_COLUMNS].copy()
    for column in {"fraction", "zero_fraction"} & set(excerpt):
        excerpt[column] = excerpt[column].map("{:.2%}".format)
    console.print(Table.from_frame(excerpt, title))
    if excerpt.shape != table.shape:
        (rows, columns), (all_rows, all_columns) = excerpt.shape, table.shape
        console.print(f"The first {rows} of {all_rows} rows, {columns} of {all_columns} columns.")
