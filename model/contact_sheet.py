"""Images on one page, each with a few words: to be looked through by eye."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from relearn.model.canvas import BLACK, VERMILION, blank, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 8
WIDEST = 17  # characters of a caption's line


def contact_sheet(title: str, pictures: Sequence[tuple[np.ndarray, Sequence[str], bool]]) -> "Figure":
    """Of each picture its image, uint8 (channels, height, width), lines under it, whether it is doubtful.

    What is doubtful has a frame and coloured words.
    """
    rows = max(1, -(-len(pictures) // COLUMNS))
    tallest = max([image.shape[1] / image.shape[2] for image, *_ in pictures], default=1)
    words = max([len(lines) for _, lines, _ in pictures], default=0)
    framed = sum(doubtful for *_, doubtful in pictures)
    told = f"{title}: {len(pictures):,} images" + (f", {framed:,} framed: doubtful" if framed else "")
    figure = blank(0.5 + rows * (min(2, tallest) + 0.16 * words + 0.15), told)
    places = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in places[len(pictures) :]:
        axes.set_axis_off()
    for axes, (image, lines, doubtful) in zip(places, pictures, strict=False):
        axes.imshow(
            image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest"
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(color=VERMILION, linewidth=2, visible=doubtful)
        caption = "\n".join(shown(line, WIDEST) for line in lines)
        axes.set_xlabel(caption, fontsize=8, color=VERMILION if doubtful else BLACK)
    return figure
