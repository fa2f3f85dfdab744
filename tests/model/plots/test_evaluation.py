"""Tests of the evaluation figures: they draw without a warning and show the right numbers."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relearn.model.evaluation.metrics import Evaluation
from relearn.model.plots import evaluation as plots
from relearn.model.plots import learning_curves
from tests.model.plots.figures import line_points, make_history, save_as_png

ODD_NAMES = ("golden_retriever_puppy", "$a_{", "猫", "x")


def evaluation(classes: int, images: int = 400, skill: float = 2.5, missing: int = 0) -> Evaluation:
    """Make an evaluation with some errors; the last `missing` classes have no images."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, classes - missing, images)
    logits = generator.normal(size=(images, classes))
    logits[np.arange(images), labels] += skill
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Evaluation(probabilities, labels, tuple(f"{number}" for number in range(classes)))


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def fits_into_page(figure: Figure) -> bool:
    """Return whether nothing exceeds the figure by more than a pixel."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    return box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1


def test_confusion_matrix_of_ten_classes_shows_counts_and_percentages() -> None:
    """Every cell that is not empty has its count and its percentage of the row; only errors are colored."""
    scored = evaluation(10)
    axes = save_as_png(plots.plot_confusion_matrix(scored.confusion_matrix, scored.classes)).axes[0]
    percentage = 100 * scored.confusion_matrix[3, 3] / scored.confusion_matrix[3].sum()
    errors = axes.images[1].get_array()

    assert np.count_nonzero(scored.confusion_matrix) == len(texts(axes))
    assert f"{scored.confusion_matrix[3, 3]}\n{percentage:.1f}%" in texts(axes)
    assert errors.mask.diagonal().all()
    assert errors.max() == axes.images[1].get_clim()[1]


def test_confusion_matrix_title_has_the_most_frequent_error() -> None:
    """Two bees predicted as ants outnumber one ant predicted as a bee."""
    figure = plots.plot_confusion_matrix(np.array([[5, 1], [2, 1000]]), ("ant", "bee"))

    assert "3 of 1,008 images misclassified, most often bee predicted as ant (2×)" == figure.get_suptitle()


def test_confusion_matrix_without_errors_is_drawn() -> None:
    """All predictions are correct, one class has no image, and nothing is divided by zero."""
    figure = save_as_png(plots.plot_confusion_matrix(np.diag([3, 4, 0]), ("ant", "bee", "cat")))

    assert "All 7 images correct" == figure.get_suptitle()
    assert ["3\n100.0%", "4\n100.0%"] == texts(figure.axes[0])


def test_confusion_matrix_of_26_classes_shows_counts_and_recalls() -> None:
    """With 26 classes a cell has room for the count; the recall is next to the label."""
    scored = evaluation(26, missing=1)
    axes = save_as_png(plots.plot_confusion_matrix(scored.confusion_matrix, scored.classes)).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    recall = 100 * scored.confusion_matrix[0, 0] / scored.confusion_matrix[0].sum()

    assert {f"{count}" for count in scored.confusion_matrix[scored.confusion_matrix > 0]} == set(texts(axes))
    assert f"0  {recall:.0f}%" == labels[0]
    assert "25  –" == labels[25]


def test_confusion_matrix_of_a_hundred_classes_has_no_numbers() -> None:
    """Cells are too small for numbers, and at most 50 class names are drawn."""
    scored = evaluation(100)
    axes = save_as_png(plots.plot_confusion_matrix(scored.confusion_matrix, scored.classes)).axes[0]

    assert [] == texts(axes)
    assert 50 == len(axes.get_xticklabels())


def test_calibration_plot_shows_its_table() -> None:
    """Points are accuracy over confidence of the non-empty bins; bars are their image counts."""
    scored = evaluation(10)
    above, below = save_as_png(plots.plot_calibration(scored)).axes
    filled = scored.calibration_curve[scored.calibration_curve["count"] > 0]
    points = line_points(above, "accuracy of a bin")

    assert (100 * filled["confidence"]).tolist() == points[0].tolist()
    assert (100 * filled["accuracy"]).tolist() == points[1].tolist()
    assert filled["count"].tolist() == [bar.get_height() for bar in below.patches]
    assert [f"{count}" for count in filled["count"]] == texts(below)


def test_calibration_interval_is_wilsons() -> None:
    """8 correct of 10 give 49.0 to 94.3 %, as in published tables."""
    probabilities = np.full((10, 2), [0.6, 0.4], np.float32)
    above = plots.plot_calibration(
        Evaluation(probabilities, np.array([0] * 8 + [1] * 2), ("no", "yes"))
    ).axes[0]
    (segment,) = above.collections[0].get_segments()

    assert [49.0, 94.3] == pytest.approx(segment[:, 1].tolist(), abs=0.05)


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.9, "overconfident by 40.0 points"),
        (0.3, "underconfident by 20.0 points"),
        (0.5, "Mean confidence 50.0 %\n"),
    ],
)
def test_calibration_title_has_the_direction_of_the_error(confidence: float, expected: str) -> None:
    """The title says overconfident, underconfident, or neither."""
    rest = (1 - confidence) / 7
    probabilities = np.full((4, 8), [confidence] + [rest] * 7, np.float32)
    figure = save_as_png(
        plots.plot_calibration(Evaluation(probabilities, np.array([0, 0, 1, 1]), tuple("abcdefgh")))
    )

    assert expected in figure.get_suptitle()
    assert "Accuracy 50.0 % (95 % interval 15.0–85.0, 4 images)\n" in figure.get_suptitle()


def test_class_report_plot_shows_its_table() -> None:
    """The hardest class is on top; dots are precision, recall and F1; the note has F1 and image count."""
    scored = evaluation(10, missing=1)
    figure = save_as_png(plots.plot_class_report(scored.class_report))
    (axes,) = figure.axes
    rows = scored.class_report.dropna().sort_values("f1", kind="stable")

    assert rows["class"].tolist() == [label.get_text() for label in axes.get_yticklabels()]
    assert (100 * rows["precision"]).tolist() == line_points(axes, "precision")[0].tolist()
    assert (100 * rows["recall"]).tolist() == line_points(axes, "recall")[0].tolist()
    assert (100 * rows["f1"]).tolist() == line_points(axes, "F1")[0].tolist()
    assert f"F1 {100 * rows['f1'].iloc[0]:.1f}%, {rows['support'].iloc[0]} images" == texts(axes)[0]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert "No images in this split: 9" in figure.get_suptitle()


def test_class_report_plot_of_many_classes_shows_the_hardest() -> None:
    """Of a hundred classes, the 40 hardest are drawn."""
    figure = save_as_png(plots.plot_class_report(evaluation(100, images=3000).class_report))

    assert 40 == len(figure.axes[0].get_yticklabels())
    assert "Only the 40 hardest classes are shown" in figure.get_suptitle()


def test_class_report_plot_of_perfect_predictions() -> None:
    """The axis ends at 100 % even if all values are equal."""
    labels = np.arange(20) % 2
    scored = Evaluation(np.eye(2, dtype=np.float32)[labels], labels, ("no", "yes"))
    (axes,) = save_as_png(plots.plot_class_report(scored.class_report)).axes

    assert axes.get_xlim()[0] < 99.1
    assert axes.get_xlim()[1] < 101


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 32)])
def test_worst_errors_are_the_most_confident(shape: tuple[int, int, int]) -> None:
    """Each image, gray or color, belongs to its row; the caption is label → prediction and confidence."""
    scored = evaluation(10)
    images = np.random.default_rng(0).integers(0, 256, (400, *shape)).astype(np.uint8)
    figure = save_as_png(plots.plot_worst_errors(images, scored.misclassified, max_images=8))
    worst = scored.misclassified.iloc[0]
    pixels = figure.axes[0].images[0].get_array()

    assert 8 == sum(len(axes.images) for axes in figure.axes)
    assert (images[worst["index"]].transpose(1, 2, 0).squeeze() == pixels).all()
    assert (
        f"{worst['label']} → {worst['predicted']}\n{100 * worst['confidence']:.1f}%"
        in figure.axes[0].get_xlabel()
    )
    title = f"8 most confident of {len(scored.misclassified)} errors on 400 images"
    assert title in figure.get_suptitle()


def test_worst_errors_mark_label_issues() -> None:
    """A label issue is marked by a frame and by the text "label?", not only by color."""
    misclassified = evaluation(10).misclassified.assign(label_issue=False)
    misclassified.loc[1, "label_issue"] = True
    figure = plots.plot_worst_errors(np.zeros((400, 1, 8, 8), np.uint8), misclassified)

    assert [False, True] == [axes.spines["top"].get_visible() for axes in figure.axes[:2]]
    assert [False, True] == ["label?" in axes.get_xlabel() for axes in figure.axes[:2]]
    assert "(1 in total)" in figure.get_suptitle()


def test_worst_errors_without_errors() -> None:
    """Without errors, the figure has a title and no images."""
    figure = save_as_png(
        plots.plot_worst_errors(np.zeros((5, 1, 8, 8), np.uint8), evaluation(3).misclassified.head(0))
    )

    assert "No errors on 5 images" == figure.get_suptitle()


def test_any_class_names_fit_into_the_figures() -> None:
    """Long names, formulas and foreign letters cause no warning and stay inside the figure."""
    scored = evaluation(4, skill=0.5)
    named = Evaluation(scored.probabilities, scored.labels, ODD_NAMES)
    images = np.zeros((400, 3, 16, 16), np.uint8)
    figures = (
        plots.plot_confusion_matrix(named.confusion_matrix, ODD_NAMES),
        plots.plot_class_report(named.class_report),
        plots.plot_worst_errors(images, named.misclassified),
        learning_curves.plot_runs({name: make_history(3) for name in ODD_NAMES}),
    )

    assert all(fits_into_page(save_as_png(figure)) for figure in figures)
