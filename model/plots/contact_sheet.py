"""Images on one page, each with a few words: to be looked through by eye."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relearn.model.plots.style import BLACK, VERMILION, create_figure, ellipsize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
MAX_LINE_LENGTH = 17  # characters of a caption's line


Picture = tuple[np.ndarray, Sequence[str], bool]
"""An image, uint8 (channels, height, width), lines of a caption, whether it is doubtful."""


def plot_contact_sheet(title: str, entries: Sequence[Picture]) -> "Figure":
    """Draw all of `pictures`, and say in the title how many there are and how many are doubtful."""
    doubtful_count = sum(is_doubtful for *_, is_doubtful in entries)
    doubts = f", {doubtful_count:,} framed: doubtful" if doubtful_count else ""
    return image_grid(f"{title}: {len(entries):,} images{doubts}", entries)


def image_grid(title: str, pictures: Sequence[Picture]) -> "Figure":
    """Draw each picture over its caption; what is doubtful has a frame and colored words."""
    rows = max(1, -(-len(pictures) // COLUMNS))
    tallest = max([image.shape[1] / image.shape[2] for image, *_ in pictures], default=1)
    words = max([len(lines) for _, lines, _ in pictures], default=0)
    figure = create_figure(0.5 + rows * (min(2, tallest) + 0.16 * words + 0.15), title)
    places = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in places[len(pictures) :]:
        axes.set_axis_off()
    for axes, (image, lines, doubtful) in zip(places, pictures, strict=False):
        pixels = image.transpose(1, 2, 0).squeeze()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=VERMILION, linewidth=2, visible=doubtful)
        caption = "\n".join(ellipsize(line, MAX_LINE_LENGTH) for line in lines)
        axes.set_xlabel(caption, fontsize=7, color=VERMILION if doubtful else BLACK)
    return figure
