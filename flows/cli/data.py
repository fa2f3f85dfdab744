"""Inspection of data sources; history and comparison of the data that runs learned from."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from cyclopts import App
from rich.columns import Columns
from rich.console import Console, Group
from rich.text import Text

from relearn.flows.console import image_bar, make_console, print_warning
from relearn.flows.rendering import Table, check_output, write_figure
from relearn.model.errors import UserInputError
from relearn.model.text import escape_controls

if TYPE_CHECKING:
    from relearn.model.sources.raw_dataset import RawDataset

app = App(name="data")

THUMBNAIL_WIDTH = 16  # characters
THUMBNAILS = 8
SHEET_IMAGES, MAX_SHEET_IMAGES = 4, 80  # in a contact sheet: of each class, in all
SAMPLE = 1000  # image files that a first look opens
MAX_ROWS = 20  # of a table


@app.command
def inspect(source: str, *, save: Path | None = None, contact_sheet: Path | None = None) -> None:
    """Show how a data source is read: layout, splits, classes, pixels, what is left out, some images.

    Parameters
    ----------
    source
        A path or a dataset.toml, as for `--dataset`.
    save
        Also write the reading and the data's fingerprint to this new file, for `--dataset`. Reads all images.
    contact_sheet
        Also write the images to this new PNG file.
    """
    from relearn.model.config import TrainConfig
    from relearn.model.data.builtin import DATASETS
    from relearn.model.data.formats import read_source
    from relearn.model.data.load import load_dataset, resolve_source
    from relearn.model.home import Home
    from relearn.model.images.allocate import allocate_in
    from relearn.model.sources.inspect import inspect_source
    from relearn.model.sources.raw_dataset import ReadOptions

    check_output("--contact-sheet", contact_sheet, force=False, suffixes=[".png"])
    config, home = TrainConfig(dataset=source), Home.from_environment()
    kind, _, path = resolve_source(config, home).partition(":")
    if not path:
        raise UserInputError(f"source: got {source!r}, accepted: your own data, not {', '.join(DATASETS)}")
    description = inspect_source(Path(path), kind=kind, sample=SAMPLE)  # type: ignore[arg-type]
    if save is not None:
        with image_bar() as show_progress:
            dataset = load_dataset(config, home, allocate_in(Path(tempfile.gettempdir())), show_progress)
        description.model_copy(update={"fingerprint": dataset.fingerprint}).save(save)
    console = make_console()
    for line in description.summarize():
        console.print(line, soft_wrap=True)
    for warning in description.warnings:
        print_warning(warning)
    limit = max(THUMBNAILS, min(MAX_SHEET_IMAGES, SHEET_IMAGES * len(description.classes)))
    examples = _list_examples(read_source(description, ReadOptions(limit=limit)))
    _print_thumbnails(console, examples[:: -(-len(examples) // THUMBNAILS)])
    if contact_sheet is not None:
        _write_contact_sheet(contact_sheet, examples)
    for file in filter(None, (save, contact_sheet)):
        console.print(str(file), soft_wrap=True)


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
    from relearn.flows.cli.terminal_image import render_half_blocks

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
def history(*, model_name: str | None = None) -> None:
    """List what the classifiers learned from: date, run, fingerprint, images of each split and class.

    Parameters
    ----------
    model_name
        Only the runs of this model name.
    """
    from relearn.flows.tracking.data_history import list_learned_data
    from relearn.model.home import Home

    console, shown = make_console(), set[str]()
    for data in list_learned_data(Home.from_environment(), model_name):
        console.print(
            f"{data.date:%Y-%m-%d %H:%M}  {data.model_name}  run {data.run_id[:8]}"
            f"  data {data.fingerprint[:12]}",
            soft_wrap=True,
        )
        if data.counts is not None and data.fingerprint not in shown:
            console.print(Table.from_frame(_list_counts(data.counts)))
        shown.add(data.fingerprint)
    if not shown:
        console.print("no training run yet: run relearn run or relearn train")


@app.command
def diff(before: str, after: str) -> None:
    """Compare two data sets: images added, removed, of another class, of another split.

    Images are compared by their pixels, at the size at which they are learned.

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


def _list_counts(counts: pd.DataFrame) -> pd.DataFrame:
    """Return a row for all images and one for each class, with the images of each split."""
    splits = [split for split in ("train", "validation", "test") if split in counts]
    table = counts[splits].iloc[:MAX_ROWS]
    table.insert(0, "class", list(map(str, table.index)))
    total = {"class": f"all {len(counts)} classes"} | {split: counts[split].sum() for split in splits}
    return pd.concat([pd.DataFrame([total]), table])
