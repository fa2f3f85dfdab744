"""What an evaluation looks like: one matplotlib `Figure` per question."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from relearn.model import canvas
from relearn.model.canvas import BLACK, BLUE, GREY, SKY, VERMILION, blank, shown, tidy
from relearn.model.contact_sheet import image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from relearn.model.metrics import Evaluation

# Up to here a cell of the confusion matrix has room for count and share, up to there for the count.
TWO_NUMBERS, ONE_NUMBER = 12, 30


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> "Figure":
    """What was taken for what: counts, and by colour the share of an error in its row.

    `matrix` int (classes, classes), labels in rows, predictions in columns. The diagonal is left out
    of the colours: on a good classifier it would be the only thing to see.
    """
    size = len(classes)
    diagonal = np.eye(size, dtype=bool)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = 100 * matrix / np.where(totals > 0, totals, np.nan)
    errors = np.where(diagonal | (matrix == 0), np.nan, shares)
    top = max(1.0, float(np.nanmax(errors, initial=0)))
    figure = blank(8.2, _confusion_title(matrix, classes))
    axes = figure.subplots()
    axes.imshow(np.where(diagonal, 0.2, np.nan), cmap="Blues", vmin=0, vmax=1)
    coloured = axes.imshow(errors, cmap="YlOrRd", vmin=0, vmax=top)
    figure.colorbar(coloured, shrink=0.6, label="error: share of the images with this label (%)")
    if size <= ONE_NUMBER:
        _cell_numbers(axes, matrix, shares, top)
    _class_ticks(axes, classes, shares.diagonal())
    return figure


def _confusion_title(matrix: np.ndarray, classes: Sequence[str]) -> str:
    errors = matrix - np.diag(matrix.diagonal())
    if not errors.any():
        return f"All {matrix.sum():,} images recognised"
    label, predicted = divmod(int(errors.argmax()), len(classes))
    often = f", most often {shown(classes[label])} taken for {shown(classes[predicted])} ({errors.max():,}×)"
    return f"{errors.sum():,} of {matrix.sum():,} images wrong" + (often if errors.max() > 1 else "")


def _cell_numbers(axes: "Axes", matrix: np.ndarray, shares: np.ndarray, top: float) -> None:
    roomy = len(matrix) <= TWO_NUMBERS
    for row, column in np.argwhere(matrix):
        share = shares[row, column]
        text = f"{matrix[row, column]:,}" + (f"\n{share:.1f}%" if roomy else "")
        color = "white" if row != column and share > 0.6 * top else BLACK
        axes.text(column, row, text, ha="center", va="center", fontsize=9 if roomy else 7, color=color)


def _class_ticks(axes: "Axes", classes: Sequence[str], recalls: np.ndarray) -> None:
    """Names at both axes; where cells are too small for a share, the recall stands with the label."""
    size = len(classes)
    names = [shown(name, 14) for name in classes]
    shares = ["–" if np.isnan(recall) else f"{recall:.0f}%" for recall in recalls]
    labels = [f"{name}  {share}" for name, share in zip(names, shares, strict=True)]
    step = -(-size // 50)
    font = 10 if size <= TWO_NUMBERS else 8 if size <= ONE_NUMBER else 7
    turned = 90 if max(map(len, names)) * size > 80 else 0
    axes.set_xticks(range(0, size, step), names[::step], fontsize=font, rotation=turned)
    axes.set_yticks(range(0, size, step), (names if size <= TWO_NUMBERS else labels)[::step], fontsize=font)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("label" if size <= TWO_NUMBERS else "label, and share of its images recognised")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e4e4", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def reliability(evaluation: "Evaluation") -> "Figure":
    """Whether 90 % sure means 90 % right: accuracy against confidence, and how often each is claimed.

    Points stand at a bin's mean confidence; bars are Wilson's 95 % interval of its accuracy (JASA 22, 1927),
    so that a bin with few images is not over-read.
    """
    table = evaluation.reliability[evaluation.reliability["count"] > 0]
    mean = float(evaluation.confidence.mean())
    excess = 100 * (mean - evaluation.accuracy)
    verdict = f"{'over' if excess > 0 else 'under'}-confident by {abs(excess):.1f} points"
    figure = blank(
        6.6,
        f"Mean confidence {mean:.1%}, accuracy {evaluation.accuracy:.1%}"
        + (f": {verdict}" if abs(excess) >= 0.05 else "")
        + f"\nExpected calibration error {evaluation.ece:.1%} over {len(evaluation.reliability)} bins",
    )
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _accuracy_in_bins(above, table)
    _images_in_bins(below, table)
    canvas.legend_below(figure, above)
    return figure


def _accuracy_in_bins(axes: "Axes", table: pd.DataFrame) -> None:
    from scipy import stats

    confidence, accuracy = 100 * table["confidence"], 100 * table["accuracy"]
    correct = (table["accuracy"] * table["count"]).round().astype(int)
    tests = [stats.binomtest(k, n) for k, n in zip(correct, table["count"], strict=True)]
    low, high = 100 * np.array([test.proportion_ci(method="wilson") for test in tests]).T
    axes.plot((0, 100), (0, 100), "--", color=GREY, label="perfect calibration")
    axes.plot(confidence, accuracy, "o", color=BLUE, clip_on=False, zorder=3, label="accuracy in a bin")
    axes.vlines(confidence, low, high, color=SKY, linewidth=4, label="its 95% interval")
    axes.set(ylabel="accuracy (%)", ylim=(-2, 102))
    tidy(axes)


def _images_in_bins(axes: "Axes", table: pd.DataFrame) -> None:
    width = 100 * (table["upper"] - table["lower"])
    bars = axes.bar(100 * table["lower"], table["count"], width, align="edge", color=SKY, edgecolor="white")
    axes.bar_label(bars, [f"{count:,}" for count in table["count"]], fontsize=8, padding=1)
    axes.set(xlabel="confidence: probability of the predicted class (%)", ylabel="images (log scale)")
    axes.set(yscale="log", xlim=(0, 100), ylim=(0.7, 6 * table["count"].max()))
    tidy(axes)


def per_class(table: pd.DataFrame, most: int = 40) -> "Figure":
    """Precision, recall and F1 of each class, the lowest F1 on top, at most `most` classes.

    `table` is `Evaluation.per_class`. Dots and not bars: a bar must begin at 0, where 97 and 99 % look
    alike. Classes without images in the split have no values and are left out.
    """
    known = table.dropna(subset=["f1"]).sort_values("f1", kind="stable")
    rows, places = known.head(most), np.arange(min(most, len(known)))
    absent = ", ".join(table["class"][table["f1"].isna()])
    figure = blank(
        1.9 + 0.3 * len(rows),
        f"Hardest class: {shown(rows['class'].iloc[0])}, F1 {rows['f1'].iloc[0]:.1%}; "
        f"mean of {len(known)} classes {known['f1'].mean():.1%}"
        + (f"\nOnly the {most} hardest are shown" if len(known) > most else "")
        + (f"\nNo images in this split: {shown(absent, 70)}" if absent else ""),
    )
    axes = figure.subplots()
    ends = 100 * rows[["precision", "recall"]]
    axes.hlines(places, ends.min(axis=1), ends.max(axis=1), color="#c8c8c8", linewidth=2, zorder=1)
    axes.plot(ends["precision"], places, ">", color=BLUE, markersize=9, label="precision")
    axes.plot(ends["recall"], places, "<", color=VERMILION, markersize=9, label="recall")
    axes.plot(100 * rows["f1"], places, "D", color=BLACK, markersize=5, label="F1")
    for place, (f1, support) in enumerate(zip(rows["f1"], rows["support"], strict=True)):
        note = f"F1 {f1:.1%}, {support:,} images"
        axes.text(1.02, place, note, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.set_yticks(places, [shown(name) for name in rows["class"]])
    lowest = min(99.0, float(ends.to_numpy().min()))
    room = 0.05 * (100 - lowest)
    axes.set(xlabel="precision, recall, F1 (%)", xlim=(lowest - room, 100 + room))
    axes.set(ylabel="class", ylim=(len(rows) - 0.4, -0.6))
    tidy(axes)
    canvas.legend_below(figure, axes)
    return figure


def gallery(images: np.ndarray, mistakes: pd.DataFrame, most: int = 24) -> "Figure":
    """The surest mistakes as pictures, each with label → predicted class and its confidence.

    `images` uint8 (n, channels, height, width) of the split, `mistakes` its `Evaluation.mistakes`.
    """
    worst = mistakes.head(most)
    if worst.empty:
        return blank(1.0, f"No mistakes on {len(images):,} images")
    suspects = int(mistakes["suspected_wrong_label"].sum())
    title = (
        f"The {len(worst)} surest of {len(mistakes):,} mistakes on {len(images):,} images: label → prediction"
    )
    if suspects:
        title += f"\nlabel? means that the label itself may be wrong: {suspects:,} in all"
    rows = worst.to_dict("records")
    return image_grid(
        title,
        [(np.asarray(images[row["index"]]), _caption(row), row["suspected_wrong_label"]) for row in rows],
    )


def _caption(mistake: Mapping[Hashable, Any]) -> list[str]:
    label, predicted = mistake["label"], f"→ {mistake['predicted']}"
    names = [label, predicted] if len(label + predicted) > 14 else [f"{label} {predicted}"]
    doubt = "  label?" if mistake["suspected_wrong_label"] else ""
    return [*names, f"{mistake['confidence']:.1%}{doubt}"]
