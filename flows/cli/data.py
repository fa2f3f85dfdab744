"""Inspect and explore data; list and compare what runs learned from."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
from cyclopts import App, Parameter
from rich.columns import Columns
from rich.console import Console, Group
from rich.text import Text

from relearn.flows.cli.parameters import Json, SettingsFile, build_train_config
from relearn.flows.terminal.console import (
    image_bar,
    make_console,
    print_json,
    print_note,
    print_warning,
    spinner,
)
from relearn.flows.terminal.next_step import print_next
from relearn.flows.terminal.rendering import Table, check_output, write_figure
from relearn.model.config import DataConfig, TrainConfig
from relearn.model.errors import UserInputError
from relearn.model.text import escape_controls

if TYPE_CHECKING:
    from relearn.model.description.raw_dataset import RawDataset
    from relearn.model.preparation.prepared import PreparedDataset

app = App(name="data", group_commands="Commands")

THUMBNAIL_WIDTH = 16  # characters
THUMBNAILS = 8
SHEET_IMAGES, MAX_SHEET_IMAGES = 4, 80  # in a contact sheet: of each class, in all
SAMPLE = 1000  # image files that a first look opens
MAX_ROWS, MAX_COLUMNS = 20, 13  # of a printed table
EDA_TITLES = {
    "splits": "Splits",
    "labels": "Labels",
    "pixels": "Pixels as stored",
    "preprocessing": "Before and after preprocessing",
    "one_hot": "Labels as one-hot rows",
}


@app.command
@spinner("Reading the data")
def inspect(
    source: str, /, *, save: Path | None = None, contact_sheet: Path | None = None, json: Json = False
) -> None:
    """Show how a data source is read: layout, splits, classes, pixels, what is left out, some images.

    Example: `relearn data inspect photos --save dataset.toml`

    Parameters
    ----------
    source
        A path or a dataset.toml, as for `--dataset`.
    save
        Also write the reading and the data's fingerprint to this new file, for `--dataset`. Reads all images.
    contact_sheet
        Also write the images to this new PNG file.
    """
    from relearn.flows.training.fit_to_data import fit_to_data
    from relearn.model.data.builtin import DATASETS
    from relearn.model.data.custom import read_source
    from relearn.model.data.load import load_dataset, resolve_source
    from relearn.model.description.raw_dataset import ReadOptions
    from relearn.model.home import Home
    from relearn.model.images.allocate import allocate_in
    from relearn.model.sources.inspect import inspect_source

    check_output("--contact-sheet", contact_sheet, force=False, suffixes=[".png"])
    config, home = TrainConfig(dataset=source), Home.from_environment()
    kind, _, path = resolve_source(config, home).partition(":")
    if not path:
        raise UserInputError(f"source: got {source!r}, accepted: your own data, not {', '.join(DATASETS)}")
    description = inspect_source(Path(path), kind=kind, sample=SAMPLE)  # type: ignore[arg-type]
    config, _ = fit_to_data(config, (), home)  # the side of photos is that of the network which run trains
    if config.image_size:
        description = description.model_copy(update={"image_size": config.image_size})
    if save is not None:
        with image_bar() as show_progress:
            dataset = load_dataset(config, home, allocate_in(Path(tempfile.gettempdir())), show_progress)
        description.model_copy(update={"fingerprint": dataset.fingerprint}).save(save)
    limit = max(THUMBNAILS, min(MAX_SHEET_IMAGES, SHEET_IMAGES * len(description.classes)))
    examples = _list_examples(read_source(description, ReadOptions(limit=limit)))
    if contact_sheet is not None:
        _write_contact_sheet(contact_sheet, examples)
    if json:
        print_json(description.model_dump() | {"warnings": description.warnings})
        return
    console = make_console()
    for line in description.summarize():
        console.print(line, soft_wrap=True)
    for warning in description.warnings:
        print_warning(warning)
    _print_thumbnails(console, examples[:: -(-len(examples) // THUMBNAILS)])
    for file in filter(None, (save, contact_sheet)):
        print_note(str(file))
    print_next("run", "--dataset", str(save or source))


Example = tuple[np.ndarray, str]
"""An image, uint8 (channels, height, width), and its class."""


def _list_examples(images: "RawDataset") -> list[Example]:
    """List the images of all splits by class, up to SHEET_IMAGES of each."""
    examples = dict[str, list[Example]]()
    for part in images.splits.values():
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            examples.setdefault(label, []).append((image, label))
    return [example for label in sorted(examples) for example in examples[label][:SHEET_IMAGES]]


def _print_thumbnails(console: Console, examples: list[Example]) -> None:
    from relearn.flows.terminal.terminal_image import render_half_blocks

    if not console.is_terminal:
        return
    console.print(
        Columns(
            [
                Group(Text(escape_controls(label)), render_half_blocks(console, image, THUMBNAIL_WIDTH))
                for image, label in examples
            ]
        )
    )


def _write_contact_sheet(file: Path, examples: list[Example]) -> None:
    from relearn.model.plots.contact_sheet import plot_contact_sheet

    entries = [(image, [label], False) for image, label in examples]
    write_figure(file, plot_contact_sheet("First look", entries))


@app.command
@spinner("Reading the data")
def eda(
    *,
    images: int = 9,
    seed: int = 0,
    output: Path | None = None,
    json: Json = False,
    config: Annotated[DataConfig, Parameter(name="*")] = DataConfig(),
    file: SettingsFile = None,
) -> None:
    """Explore the data: splits, images, labels, pixels; print tables, write figures and tables to files.

    Example: `relearn data eda --dataset photos`

    Parameters
    ----------
    images
        Number of random images to draw.
    seed
        Seed that selects them.
    output
        New or empty folder for the figures and tables; `eda/MODEL_NAME` in the home by default.
    """
    from relearn.flows.training.fit_to_data import fit_to_data
    from relearn.model.files import to_csv, write_bytes_atomically
    from relearn.model.home import Home
    from relearn.model.plots.eda import plot_eda
    from relearn.model.preparation.eda import eda_tables
    from relearn.model.preparation.prepared import prepare_dataset

    home = Home.from_environment()
    if output is not None and (output.is_file() or (output.is_dir() and any(output.iterdir()))):
        raise UserInputError(f"--output: got {output}, which is not empty, accepted: a new or empty folder")
    networks = (config.network,) if "network" in config.model_fields_set else ()
    train_config, _ = fit_to_data(build_train_config(config, networks), networks, home)
    with image_bar() as show_progress:
        prepared = prepare_dataset(train_config, home, on_progress=show_progress)
    figures_by_name, tables_by_name = plot_eda(prepared, images, seed), eda_tables(prepared)
    tables_by_name["suspected_labels"] = _list_suspected_labels(prepared)
    folder = output or home.eda / (config.model_name or prepared.name)
    for name, figure in figures_by_name.items():
        write_figure(folder / f"{name}.png", figure)
    for name, table in tables_by_name.items():
        write_bytes_atomically(folder / f"{name}.csv", to_csv(table).encode())
    console = make_console()
    if json:
        summary = {"source": prepared.uri, "fingerprint": prepared.fingerprint, "folder": folder}
        print_json(summary | {"tables": tables_by_name})
        return
    _print_eda(console, prepared, tables_by_name, train_config.image_size)
    files = [*(f"{name}.png" for name in figures_by_name), *(f"{name}.csv" for name in tables_by_name)]
    print_note(f"Figures and tables are in {folder}: {', '.join(files)}")
    print_next("run", "--dataset", config.dataset)


def _print_eda(
    console: Console,
    prepared: "PreparedDataset",
    tables_by_name: dict[str, pd.DataFrame],
    image_size: int | None,
) -> None:
    from relearn.model.preparation.eda import balance_summary

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
    for name, title in EDA_TITLES.items():
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


def _list_suspected_labels(prepared: "PreparedDataset") -> pd.DataFrame:
    """Return the table of `suspect_labels`, with the file or row of each image."""
    from relearn.model.evaluation.label_errors import suspect_labels
    from relearn.model.preparation.prepared import read_image_list

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


@app.command
@spinner("Reading the runs")
def history(*, model_name: str | None = None, json: Json = False) -> None:
    """List what the classifiers learned from: date, run, fingerprint, images of each split and class.

    Example: `relearn data history --model-name digits`

    Parameters
    ----------
    model_name
        Only the runs of this model name.
    """
    from relearn.flows.tracking.data_history import list_learned_data
    from relearn.model.home import Home

    console, shown = make_console(), set[str]()
    learned_data = list(list_learned_data(Home.from_environment(), model_name))
    if json:
        print_json([replace(data, counts=_with_classes(data.counts)) for data in learned_data])
        return
    for data in learned_data:
        console.print(
            f"{data.date:%Y-%m-%d %H:%M}  {data.model_name}  run {data.run_id[:8]}"
            f"  data {data.fingerprint[:12]}",
            soft_wrap=True,
        )
        if data.counts is not None and data.fingerprint not in shown:
            console.print(Table.from_frame(_list_counts(data.counts)))
        shown.add(data.fingerprint)
    if not shown:
        console.print("no training run yet")
        print_next("run")


@app.command
@spinner("Comparing the data")
def diff(before: str, after: str, /, *, json: Json = False) -> None:
    """Compare two data sets: images added, removed, of another class, of another split.

    Images are compared by their pixels, at the size at which they are learned.

    Example: `relearn data diff 5b117b61 photos`

    Parameters
    ----------
    before
        A run id, a fingerprint (the first characters of either), or a source as for `--dataset`.
    after
        The same.
    """
    from relearn.flows.tracking.data_history import compare_image_lists, find_image_list
    from relearn.model.home import Home

    home, console = Home.from_environment(), make_console()
    difference = compare_image_lists(find_image_list(home, before), find_image_list(home, after))
    if json:
        print_json(difference)
        return
    for title, rows in (
        ("added", difference.added),
        ("removed", difference.removed),
        ("of another class", difference.relabeled),
        ("of another split", difference.moved),
    ):
        console.print(f"{len(rows):,} {title}")
        if len(rows):
            console.print(Table.from_frame(rows.iloc[:MAX_ROWS]))
        if len(rows) > MAX_ROWS:
            console.print(f"  and {len(rows) - MAX_ROWS:,} more")
    console.print(f"{difference.unchanged:,} unchanged")
    if not difference.unchanged and not len(difference.relabeled):
        console.print("No image is in both: images read at another size or in other channels differ.")


def _with_classes(counts: pd.DataFrame | None) -> pd.DataFrame | None:
    """Return `counts` with the classes as a column."""
    return None if counts is None else counts.rename_axis("class").reset_index()


def _list_counts(counts: pd.DataFrame) -> pd.DataFrame:
    """Return a row for all images and one for each class, with the images of each split."""
    splits = [split for split in ("train", "validation", "test") if split in counts]
    table = counts[splits].iloc[:MAX_ROWS]
    table.insert(0, "class", list(map(str, table.index)))
    total = {"class": f"all {len(counts)} classes"} | {split: counts[split].sum() for split in splits}
    return pd.concat([pd.DataFrame([total]), table])
