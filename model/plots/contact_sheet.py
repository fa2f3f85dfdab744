"""Contact sheets: a grid of images with captions, for visual review."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relearn.model.plots.style import BLACK, VERMILION, create_figure, ellipsize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
MAX_LINE_LENGTH = 17  # characters per caption line

SheetEntry = tuple[np.ndarray, Sequence[str], bool]
"""An image, uint8 (channels, height, width), the lines of its caption, and a flag to highlight it."""


def plot_contact_sheet(title: str, entries: Sequence[SheetEntry]) -> "Figure":
    """Draw all entries, with the numbers of images and of flagged images in the title."""
    flagged_count = sum(is_flagged for *_, is_flagged in entries)
    suffix = f", {flagged_count:,} flagged (framed)" if flagged_count else ""
    return plot_captioned_images(f"{title}: {len(entries):,} images{suffix}", entries)


def plot_captioned_images(title: str, entries: Sequence[SheetEntry]) -> "Figure":
    """Draw each image above its caption; flagged images have a frame and a colored caption."""
    rows = max(1, -(-len(entries) // COLUMNS))
    max_aspect = max([image.shape[1] / image.shape[2] for image, *_ in entries], default=1)
    max_lines = max([len(lines) for _, lines, _ in entries], default=0)
    figure = create_figure(0.5 + rows * (min(2, max_aspect) + 0.16 * max_lines + 0.15), title)
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid[len(entries) :]:
        axes.set_axis_off()
    for axes, (image, lines, is_flagged) in zip(grid, entries, strict=False):
        pixels = image.transpose(1, 2, 0).squeeze()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=VERMILION, linewidth=2, visible=is_flagged)
        caption = "\n".join(ellipsize(line, MAX_LINE_LENGTH) for line in lines)
        axes.set_xlabel(caption, fontsize=7, color=VERMILION if is_flagged else BLACK)
    return figure
