"""Looking at the data before any training, in figures."""

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relearn.model import canvas
from relearn.model.canvas import BLACK, BLUE, ORANGE, SKY, blank, shown, tidy
from relearn.model.datasets import LabelledImages
from relearn.model.errors import InputError
from relearn.model.look import histogram, labels, verdict
from relearn.model.prepared import PARTS, Prepared

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CLASSES = 40  # bars that can be told apart
LEGIBLE, THUMBNAIL = 6, 0.3  # letters of a name, inches of an image: with less there are no captions


def figures(prepared: Prepared, images: int = 9, seed: int = 0) -> dict[str, "Figure"]:
    """Every figure of this file, by the name of its PNG: `images` random training images drawn by `seed`."""
    splits, classes = prepared.splits, prepared.classes
    return {
        "images": grid(splits.train, classes, images, seed),
        "labels": label_distribution(labels(splits, classes)),
        "pixels": pixel_values(histogram(splits.train.images)),
    }


def grid(part: LabelledImages, classes: tuple[str, ...], count: int, seed: int) -> "Figure":
    """`count` random images of `part`, or all, with the names of their classes; another seed, others."""
    if count < 1:
        raise InputError(f"images: got {count}, accepted: 1 or more")
    count = min(count, len(part))
    chosen = np.random.default_rng(seed).choice(len(part), count, replace=False)
    columns = math.ceil(math.sqrt(count))
    mosaic, corners = _mosaic(part.images[np.sort(chosen)][np.argsort(np.argsort(chosen))], columns)
    ratio = mosaic.shape[0] / mosaic.shape[1]
    height = min(9 * ratio, 6.5 if count <= 25 else 9)
    figure = blank(0.6 + height, f"{count:,} of {len(part):,} training images, drawn by seed {seed}")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.imshow(mosaic, interpolation="nearest")
    inches = min(9, height / ratio) / columns
    letters = int(9 * inches)
    if letters >= min(LEGIBLE, max(map(len, classes))) and inches > THUMBNAIL:
        for (top, left), label in zip(corners, part.labels[chosen], strict=True):
            name = shown(classes[label], letters)
            axes.text(left, top - 1, name, fontsize=min(11, 5 + 5 * inches), color=BLACK, va="bottom")
    return figure


def _mosaic(images: np.ndarray, columns: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Images, uint8 (n, c, h, w), on one white page (h, w, 3); and their upper left corners."""
    count, _, height, width = images.shape
    above, beside = math.ceil(height / 5), math.ceil(width / 14)
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + above), columns * (width + beside), 3), 255, np.uint8)
    corners = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (height + above) + above, column * (width + beside)
        page[top : top + height, left : left + width] = image.transpose(1, 2, 0)
        corners.append((top, left))
    return page, corners


def label_distribution(distribution: pd.DataFrame) -> "Figure":
    """Images of each class, by split; `distribution` is `look.labels`. Of many classes, both ends."""
    rows, left_out = distribution, len(distribution) - MOST_CLASSES
    title = f"{distribution['images'].sum():,} images in {len(distribution)} classes\n"
    title += shown(verdict(distribution), 80)
    if left_out > 0:
        ordered = distribution.sort_values("images", ascending=False, kind="stable")
        rows = pd.concat([ordered.head(MOST_CLASSES // 2), ordered.tail(MOST_CLASSES // 2)])
        title += f"\n{left_out} classes between the largest and the smallest are not shown"
    figure = blank(1.8 + 0.3 * len(rows), title)
    axes = figure.subplots()
    places, start = np.arange(len(rows)), np.zeros(len(rows))
    for part, colour, hatch in zip(PARTS, (BLUE, ORANGE, SKY), ("", "//", ".."), strict=True):
        axes.barh(places, rows[part], left=start, color=colour, hatch=hatch, edgecolor="white", label=part)
        start = start + rows[part].to_numpy()
    for place, (images, share) in enumerate(zip(rows["images"], rows["share"], strict=True)):
        axes.text(start[place], place, f"  {images:,} ({share:.1%})", va="center", fontsize=9)
    axes.set_yticks(places, [shown(name) for name in rows["class"]])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="images", ylabel="class", xlim=(0, 1.18 * start.max()), ylim=(len(rows) - 0.4, -0.6))
    tidy(axes)
    canvas.legend_below(figure, axes)
    return figure


def pixel_values(counts: np.ndarray) -> "Figure":
    """How often each pixel value stands in the images; `counts` is `look.histogram`, int64 (256,).

    Below the values as stored, above what preprocessing makes of them.
    """
    shares, present = 100 * counts / counts.sum(), np.flatnonzero(counts)
    low, high = present[0], present[-1]
    mean = counts @ np.arange(256) / counts.sum()
    figure = blank(
        4.4,
        f"Pixels from {low} to {high}, {mean:.1f} on average; {shares[0]:.1f}% are 0\n"
        f"After preprocessing from {low / 255:.3g} to {high / 255:.3g}, {mean / 255:.3f} on average",
    )
    axes = figure.subplots()
    axes.bar(np.arange(256), shares, width=1, color=BLUE)
    axes.set(yscale="log", ylabel="share of all pixels (%, log scale)", xlabel="value as stored (0–255)")
    axes.set(xlim=(-3, 258), xticks=range(0, 256, 51))
    axes.yaxis.set_major_formatter("{x:g}")
    tidy(axes)
    above = axes.secondary_xaxis("top", functions=(partial(np.multiply, 1 / 255), partial(np.multiply, 255)))
    above.set(xlabel="value after preprocessing (0–1)", xticks=np.linspace(0, 1, 6))
    return figure
