"""Figures of an evaluation: confusion matrix, calibration, class report, worst errors."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relearn.model.evaluation.intervals import wilson_interval
from relearn.model.plots import style
from relearn.model.plots.contact_sheet import plot_captioned_images
from relearn.model.plots.style import BLACK, BLUE, GRAY, SKY, VERMILION, create_figure, ellipsize, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from relearn.model.evaluation.metrics import Evaluation

# Up to 12 classes, a cell of the confusion matrix has room for count and percentage, up to 30 for the count.
MAX_CLASSES_WITH_PERCENTAGES, MAX_CLASSES_WITH_COUNTS = 12, 30


def plot_confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> "Figure":
    """Draw a confusion matrix: counts, and as color the percentage of each error in its row.

    `matrix` int (classes, classes), labels in rows, predictions in columns. The diagonal has no color: it
    would hide the errors of a good classifier.
    """
    size = len(classes)
    diagonal = np.eye(size, dtype=bool)
    totals = matrix.sum(axis=1, keepdims=True)
    percentages = 100 * matrix / np.where(totals > 0, totals, np.nan)
    errors = np.where(diagonal | (matrix == 0), np.nan, percentages)
    max_error = max(1.0, float(np.nanmax(errors, initial=0)))
    figure = create_figure(8.2, _confusion_title(matrix, classes))
    axes = figure.subplots()
    axes.imshow(np.where(diagonal, 0.2, np.nan), cmap="Blues", vmin=0, vmax=1)
    heatmap = axes.imshow(errors, cmap="YlOrRd", vmin=0, vmax=max_error)
    figure.colorbar(heatmap, shrink=0.6, label="errors: fraction of the images with this label (%)")
    if size <= MAX_CLASSES_WITH_COUNTS:
        _draw_cell_numbers(axes, matrix, percentages, max_error)
    _set_class_ticks(axes, classes, percentages.diagonal())
    return figure


def _confusion_title(matrix: np.ndarray, classes: Sequence[str]) -> str:
    errors = matrix - np.diag(matrix.diagonal())
    if not errors.any():
        return f"All {matrix.sum():,} images correct"
    label, predicted = divmod(int(errors.argmax()), len(classes))
    frequent_error = (
        f", most often {ellipsize(classes[label])} predicted as {ellipsize(classes[predicted])}"
        f" ({errors.max():,}×)"
    )
    title = f"{errors.sum():,} of {matrix.sum():,} images misclassified"
    return title + (frequent_error if errors.max() > 1 else "")


def _draw_cell_numbers(axes: "Axes", matrix: np.ndarray, percentages: np.ndarray, max_error: float) -> None:
    has_room = len(matrix) <= MAX_CLASSES_WITH_PERCENTAGES
    for row, column in np.argwhere(matrix):
        percentage = percentages[row, column]
        text = f"{matrix[row, column]:,}" + (f"\n{percentage:.1f}%" if has_room else "")
        color = "white" if row != column and percentage > 0.6 * max_error else BLACK
        axes.text(column, row, text, ha="center", va="center", fontsize=9 if has_room else 7, color=color)


def _set_class_ticks(axes: "Axes", classes: Sequence[str], recalls: np.ndarray) -> None:
    """Write class names at both axes, with the recall where cells are too small for percentages."""
    size = len(classes)
    names = [ellipsize(name, 14) for name in classes]
    percentages = ["–" if np.isnan(recall) else f"{recall:.0f}%" for recall in recalls]
    labels = [f"{name}  {percentage}" for name, percentage in zip(names, percentages, strict=True)]
    step = -(-size // 50)
    font_size = 10 if size <= MAX_CLASSES_WITH_PERCENTAGES else 8 if size <= MAX_CLASSES_WITH_COUNTS else 7
    rotation = 90 if max(map(len, names)) * size > 80 else 0
    axes.set_xticks(range(0, size, step), names[::step], fontsize=font_size, rotation=rotation)
    axes.set_yticks(
        range(0, size, step),
        (names if size <= MAX_CLASSES_WITH_PERCENTAGES else labels)[::step],
        fontsize=font_size,
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("label" if size <= MAX_CLASSES_WITH_PERCENTAGES else "label and recall")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e4e4", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def plot_calibration(evaluation: "Evaluation") -> "Figure":
    """Plot accuracy against confidence (reliability diagram), and the number of images per bin.

    Points are at the mean confidence of a bin. Bars are the 95 % Wilson interval of its accuracy (JASA 22,
    1927), wide in a bin with few images.
    """
    table = evaluation.calibration_curve[evaluation.calibration_curve["count"] > 0]
    mean = float(evaluation.confidence.mean())
    overconfidence = 100 * (mean - evaluation.accuracy)
    summary = f"{'over' if overconfidence > 0 else 'under'}confident by {abs(overconfidence):.1f} points"
    figure = create_figure(
        6.6,
        f"Accuracy {evaluation.accuracy_with_interval}\nMean confidence {100 * mean:.1f} %"
        + (f": {summary}" if abs(overconfidence) >= 0.05 else "")
        + f"\nExpected calibration error {100 * evaluation.ece:.1f} % over "
        f"{len(evaluation.calibration_curve)} bins",
    )
    accuracy_axes, count_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _plot_accuracy_in_bins(accuracy_axes, table)
    _plot_images_in_bins(count_axes, table)
    style.add_legend_below(figure, accuracy_axes)
    return figure


def _plot_accuracy_in_bins(axes: "Axes", table: pd.DataFrame) -> None:
    confidence, accuracy = 100 * table["confidence"], 100 * table["accuracy"]
    correct = (table["accuracy"] * table["count"]).round().astype(int)
    low, high = (100 * end for end in wilson_interval(correct, table["count"]))
    axes.plot((0, 100), (0, 100), "--", color=GRAY, label="perfect calibration")
    axes.plot(confidence, accuracy, "o", color=BLUE, clip_on=False, zorder=3, label="accuracy of a bin")
    axes.vlines(confidence, low, high, color=SKY, linewidth=4, label="95% interval")
    axes.set(ylabel="accuracy (%)", ylim=(-2, 102))
    style_axes(axes)


def _plot_images_in_bins(axes: "Axes", table: pd.DataFrame) -> None:
    width = 100 * (table["upper"] - table["lower"])
    bars = axes.bar(100 * table["lower"], table["count"], width, align="edge", color=SKY, edgecolor="white")
    axes.bar_label(bars, [f"{count:,}" for count in table["count"]], fontsize=8, padding=1)
    axes.set(xlabel="confidence: probability of the predicted class (%)", ylabel="images (log scale)")
    axes.set(yscale="log", xlim=(0, 100), ylim=(0.7, 6 * table["count"].max()))
    style_axes(axes)


def plot_class_report(table: pd.DataFrame, max_classes: int = 40) -> "Figure":
    """Plot precision, recall and F1 per class, lowest F1 on top, at most `max_classes` classes.

    `table` is `Evaluation.class_report`. Values are dots because bars must start at 0, where 97 and 99 % look
    alike. Classes without images in the split are omitted.
    """
    rows_with_images = table.dropna(subset=["f1"]).sort_values("f1", kind="stable")
    rows, positions = rows_with_images.head(max_classes), np.arange(min(max_classes, len(rows_with_images)))
    missing_classes = ", ".join(table["class"][table["f1"].isna()])
    figure = create_figure(
        1.9 + 0.3 * len(rows),
        f"Hardest class: {ellipsize(rows['class'].iloc[0])}, F1 {rows['f1'].iloc[0]:.1%}; "
        f"mean of {len(rows_with_images)} classes {rows_with_images['f1'].mean():.1%}"
        + (
            f"\nOnly the {max_classes} hardest classes are shown"
            if len(rows_with_images) > max_classes
            else ""
        )
        + (f"\nNo images in this split: {ellipsize(missing_classes, 70)}" if missing_classes else ""),
    )
    axes = figure.subplots()
    percentages = 100 * rows[["precision", "recall"]]
    axes.hlines(
        positions, percentages.min(axis=1), percentages.max(axis=1), color="#c8c8c8", linewidth=2, zorder=1
    )
    axes.plot(percentages["precision"], positions, ">", color=BLUE, markersize=9, label="precision")
    axes.plot(percentages["recall"], positions, "<", color=VERMILION, markersize=9, label="recall")
    axes.plot(100 * rows["f1"], positions, "D", color=BLACK, markersize=5, label="F1")
    for position, (f1, support) in enumerate(zip(rows["f1"], rows["support"], strict=True)):
        note = f"F1 {f1:.1%}, {support:,} images"
        axes.text(1.02, position, note, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(positions, [ellipsize(name) for name in rows["class"]])
    lowest = min(99.0, float(percentages.to_numpy().min()))
    margin = 0.05 * (100 - lowest)
    axes.set(xlabel="precision, recall, F1 (%)", xlim=(lowest - margin, 100 + margin))
    axes.set(ylabel="class", ylim=(len(rows) - 0.4, -0.6))
    style_axes(axes)
    style.add_legend_below(figure, axes)
    return figure


def plot_worst_errors(images: np.ndarray, misclassified: pd.DataFrame, max_images: int = 24) -> "Figure":
    """Draw the most confident errors, each with label → predicted class and its confidence.

    `images` uint8 (n, channels, height, width) of the split, `misclassified` is
    `Evaluation.misclassified`.
    """
    worst_rows = misclassified.head(max_images)
    if worst_rows.empty:
        return create_figure(1.0, f"No errors on {len(images):,} images")
    issue_count = int(misclassified["label_issue"].sum())
    title = (
        f"{len(worst_rows)} most confident of {len(misclassified):,} errors on {len(images):,} images "
        "(label → prediction)"
    )
    if issue_count:
        title += f"\n“label?”: the label itself may be wrong ({issue_count:,} in total)"
    rows = worst_rows.to_dict("records")
    return plot_captioned_images(
        title,
        [(np.asarray(images[row["index"]]), _error_caption(row), row["label_issue"]) for row in rows],
    )


def _error_caption(row: Mapping[Hashable, Any]) -> list[str]:
    label, predicted = row["label"], f"→ {row['predicted']}"
    names = [label, predicted] if len(label + predicted) > 14 else [f"{label} {predicted}"]
    issue_mark = "  label?" if row["label_issue"] else ""
    return [*names, f"{row['confidence']:.1%}{issue_mark}"]
