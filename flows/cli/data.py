"""`relearn data`: inspection of a data source before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cyclopts import App
from rich.columns import Columns
from rich.console import Console, Group
from rich.text import Text

from relearn.flows.console import escape_controls, make_console, print_warning
from relearn.flows.rendering import check_output, write_figure
from relearn.model.errors import UserInputError

if TYPE_CHECKING:
    from relearn.model.data.raw_dataset import RawDataset

app = App(name="data")

THUMBNAIL_WIDTH = 16  # characters
THUMBNAILS = 8


@app.command
def inspect(source: str, *, save: Path | None = None, contact_sheet: Path | None = None) -> None:
    """Show how a data source is read: layout, splits, classes, pixels, what is left out, some images.

    Parameters
    ----------
    source
        A path or a dataset.toml, as for `--dataset`.
    save
        Also write the reading to this new file, to edit it and pass it to `--dataset`.
    contact_sheet
        Also write the images to this new PNG file.
    """
    from relearn.model.config import TrainConfig
    from relearn.model.data.builtin import DATASETS
    from relearn.model.data.formats import read_source
    from relearn.model.data.inspect import inspect_source
    from relearn.model.data.load import resolve_source
    from relearn.model.data.read_options import ReadOptions
    from relearn.model.home import Home

    check_output("--contact-sheet", contact_sheet, force=False, suffixes=[".png"])
    kind, _, path = resolve_source(TrainConfig(dataset=source), Home.from_environment()).partition(":")
    if not path:
        known = ", ".join(DATASETS)
        raise UserInputError(f"source: got {source!r}, accepted: your own data, not {known}")
    description = inspect_source(Path(path), kind=kind)  # type: ignore[arg-type]
    if save is not None:
        description.save(save)
    console = make_console()
    for line in description.summarize():
        console.print(escape_controls(line), soft_wrap=True)
    for warning in description.warnings:
        print_warning(warning)
    images = read_source(description, ReadOptions(limit=THUMBNAILS))
    _print_thumbnails(console, images)
    if contact_sheet is not None:
        _write_contact_sheet(contact_sheet, images)
    for file in filter(None, (save, contact_sheet)):
        console.print(str(file), soft_wrap=True)


def _list_examples(images: "RawDataset") -> list[tuple[np.ndarray, str]]:
    part = images.splits.get("train") or next(iter(images.splits.values()))
    return list(zip(part.images, part.labels.tolist(), strict=True))[:THUMBNAILS]


def _print_thumbnails(console: Console, images: "RawDataset") -> None:
    from relearn.flows.cli.terminal_image import render_half_blocks

    if not console.is_terminal:
        return
    console.print(
        Columns(
            [
                Group(Text(escape_controls(label)), render_half_blocks(console, image, THUMBNAIL_WIDTH))
                for image, label in _list_examples(images)
            ]
        )
    )


def _write_contact_sheet(file: Path, images: "RawDataset") -> None:
    from relearn.model.plots.contact_sheet import plot_contact_sheet

    entries = [(image, [escape_controls(label)], False) for image, label in _list_examples(images)]
    write_figure(file, plot_contact_sheet("First look", entries))
