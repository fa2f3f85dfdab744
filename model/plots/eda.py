"""Figures of exploratory data analysis: images, label distribution, pixel values."""

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from relearn.model.data.dataset import LabelledImages
from relearn.model.errors import UserInputError
from relearn.model.plots import style
from relearn.model.plots.style import BLACK, BLUE, ORANGE, SKY, create_figure, ellipsize, style_axes
from relearn.model.preparation.eda import balance_summary, histogram, label_counts
from relearn.model.preparation.prepared import SPLITS, PreparedDataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CLASSES = 40  # more bars are hard to tell apart
# Captions are omitted if fewer letters of the class name fit, or if an image is narrower.
MIN_CAPTION_LETTERS, MIN_CAPTION_INCHES = 6, 0.3


def plot_eda(dataset: PreparedDataset, image_count: int = 9, seed: int = 0) -> dict[str, "Figure"]:
    """Return all EDA figures by file name; `image_count` training images are chosen at random with `seed`."""
    splits, classes = dataset.splits, dataset.classes
    return {
        "images": plot_image_grid(splits.train, classes, image_count, seed),
        "labels": plot_label_distribution(label_counts(splits, classes)),
        "pixels": plot_pixel_values(histogram(splits.train.images)),
    }


def plot_image_grid(split: LabelledImages, classes: tuple[str, ...], count: int, seed: int) -> "Figure":
    """Draw `count` random images of `split`, or all if it has fewer, with their class names."""
    if count < 1:
        raise UserInputError(f"images: got {count}, accepted: 1 or more")
    count = min(count, len(split))
    indices = np.random.default_rng(seed).choice(len(split), count, replace=False)
    columns = math.ceil(math.sqrt(count))
    mosaic, corners = _build_mosaic(split.images[np.sort(indices)][np.argsort(np.argsort(indices))], columns)
    ratio = mosaic.shape[0] / mosaic.shape[1]
    height = min(9 * ratio, 6.5 if count <= 25 else 9)
    figure = create_figure(0.6 + height, f"{count:,} of {len(split):,} training images (seed {seed})")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.imshow(mosaic, interpolation="nearest")
    inches = min(9, height / ratio) / columns
    caption_length = int(9 * inches)
    if caption_length >= min(MIN_CAPTION_LETTERS, max(map(len, classes))) and inches > MIN_CAPTION_INCHES:
        for (top, left), label in zip(corners, split.labels[indices], strict=True):
            name = ellipsize(classes[label], caption_length)
            axes.text(left, top - 1, name, fontsize=min(11, 5 + 5 * inches), color=BLACK, va="bottom")
    return figure


def _build_mosaic(images: np.ndarray, columns: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Arrange images, uint8 (n, c, h, w), on a white page; return it, uint8 (h, w, 3), and their top left
    corners.
    """
    count, _, height, width = images.shape
    row_gap, column_gap = math.ceil(height / 5), math.ceil(width / 14)
    rows = math.ceil(count / columns)
    mosaic = np.full((rows * (height + row_gap), columns * (width + column_gap), 3), 255, np.uint8)
    corners = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (height + row_gap) + row_gap, column * (width + column_gap)
        mosaic[top : top + height, left : left + width] = image.transpose(1, 2, 0)
        corners.append((top, left))
    return mosaic, corners


def plot_label_distribution(distribution: pd.DataFrame) -> "Figure":
    """Plot the images per class and split; `distribution` is the table of `eda.label_counts`.

    With more than `MAX_CLASSES` classes, only the largest and the smallest are shown.
    """
    rows, hidden_count = distribution, len(distribution) - MAX_CLASSES
    title = f"{distribution['images'].sum():,} images in {len(distribution)} classes\n"
    title += ellipsize(balance_summary(distribution), 80)
    if hidden_count > 0:
        ordered = distribution.sort_values("images", ascending=False, kind="stable")
        rows = pd.concat([ordered.head(MAX_CLASSES // 2), ordered.tail(MAX_CLASSES // 2)])
        title += f"\n{hidden_count} classes between the largest and the smallest are not shown"
    figure = create_figure(1.8 + 0.3 * len(rows), title)
    axes = figure.subplots()
    positions, bar_ends = np.arange(len(rows)), np.zeros(len(rows))
    for split, color, hatch in zip(SPLITS, (BLUE, ORANGE, SKY), ("", "//", ".."), strict=True):
        axes.barh(
            positions, rows[split], left=bar_ends, color=color, hatch=hatch, edgecolor="white", label=split
        )
        bar_ends = bar_ends + rows[split].to_numpy()
    for position, (images, fraction) in enumerate(zip(rows["images"], rows["fraction"], strict=True)):
        axes.text(bar_ends[position], position, f"  {images:,} ({fraction:.1%})", va="center", fontsize=9)
    axes.set_yticks(positions, [ellipsize(name) for name in rows["class"]])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="images", ylabel="class", xlim=(0, 1.18 * bar_ends.max()), ylim=(len(rows) - 0.4, -0.6))
    style_axes(axes)
    style.add_legend_below(figure, axes)
    return figure


def plot_pixel_values(counts: np.ndarray) -> "Figure":
    """Plot how frequent each pixel value is; `counts` is from `eda.histogram`, int64 (256,).

    The lower axis has the stored values, the upper axis the values after preprocessing.
    """
    percentages, present_values = 100 * counts / counts.sum(), np.flatnonzero(counts)
    low, high = present_values[0], present_values[-1]
    mean = counts @ np.arange(256) / counts.sum()
    figure = create_figure(
        4.4,
        f"Pixel values {low} to {high}, mean {mean:.1f}; {percentages[0]:.1f}% are 0\n"
        f"After preprocessing {low / 255:.3g} to {high / 255:.3g}, mean {mean / 255:.3f}",
    )
    axes = figure.subplots()
    axes.bar(np.arange(256), percentages, width=1, color=BLUE)
    axes.set(yscale="log", ylabel="fraction of all pixels (%, log scale)", xlabel="stored value (0–255)")
    axes.set(xlim=(-3, 258), xticks=range(0, 256, 51))
    axes.yaxis.set_major_formatter("{x:g}")
    style_axes(axes)
    above = axes.secondary_xaxis("top", functions=(partial(np.multiply, 1 / 255), partial(np.multiply, 255)))
    above.set(xlabel="value after preprocessing (0–1)", xticks=np.linspace(0, 1, 6))
    return figure
