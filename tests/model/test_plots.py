"""Promises of the figures: they draw without a warning and hold the numbers they are about."""

import io
from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from relearn.model.evaluation.metrics import Evaluation
from relearn.model.plots import evaluation as plots
from relearn.model.plots import learning_curves

ODD_NAMES = ("golden_retriever_puppy", "$a_{", "猫", "x")


def evaluation(classes: int, images: int = 400, skill: float = 2.5, missing: int = 0) -> Evaluation:
    """Answers that are often right; the last `missing` classes have no images."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, classes - missing, images)
    logits = draw.normal(size=(images, classes))
    logits[np.arange(images), labels] += skill
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Evaluation(probabilities, labels, tuple(f"{number}" for number in range(classes)))


def history(epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_loss": 1 / epoch + 0.1,
            "val_accuracy": 0.9 - 0.5 / epoch,
        }
    )


def drawn(figure: Figure) -> Figure:
    """The figure after it was written as PNG, which is when matplotlib finds fault with it."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def line(axes: Axes, label: str) -> np.ndarray:
    """The points of the line with this label: (2, n)."""
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.array(found.get_data(), dtype=float)


def inside(figure: Figure) -> bool:
    """Whether nothing drawn sticks out of the figure by more than a pixel."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    return box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1


@pytest.fixture(autouse=True)
def pyplot_stays_out() -> Iterator[None]:
    """No figure changes matplotlib's own settings."""
    before = dict(matplotlib.rcParams)
    yield
    assert before == dict(matplotlib.rcParams)


def test_curves_hold_the_history() -> None:
    """Both panels show training and validation, accuracy in percent, best and last epoch marked."""
    table = history(6)
    figure = drawn(
        learning_curves.plot_learning_curves(
            table, best_epoch=4, stop_reason="no better val_loss for 2 epochs"
        )
    )
    loss, accuracy = figure.axes

    assert table["train_loss"].tolist() == line(loss, "training")[1].tolist()
    assert table["val_loss"].tolist() == line(loss, "validation")[1].tolist()
    assert (100 * table["train_accuracy"]).tolist() == line(accuracy, "training")[1].tolist()
    assert (100 * table["val_accuracy"]).tolist() == line(accuracy, "validation")[1].tolist()
    assert [[4], [0.35]] == line(loss, "best epoch: 4").tolist()
    assert [6, 6] == line(loss, "last epoch: 6")[0].tolist()
    assert ["loss (nats per image)", "accuracy (%)"] == [axes.get_ylabel() for axes in figure.axes]
    assert figure.get_suptitle() == (
        "Epoch 4 of 6 is the best: validation loss 0.3500, accuracy 77.5%\n"
        "Stopped after epoch 6: no better val_loss for 2 epochs"
    )


def test_curves_of_one_epoch_show_points() -> None:
    """A line needs two points; a single epoch is seen all the same, at tick 1."""
    figure = drawn(learning_curves.plot_learning_curves(history(1), best_epoch=1))

    assert "o" == figure.axes[0].lines[0].get_marker()
    assert [1] == [tick for tick in figure.axes[0].get_xticks() if 0.9 < tick < 1.1]


def test_curves_survive_an_infinite_loss() -> None:
    """A diverged epoch leaves a hole, the others keep their scale."""
    table = history(5)
    table.loc[2, "train_loss"] = np.inf
    axes = drawn(learning_curves.plot_learning_curves(table, best_epoch=5)).axes[0]

    assert np.isnan(line(axes, "training")[1, 2])
    assert axes.get_ylim()[1] < 2


def test_runs_are_told_apart() -> None:
    """Each run has its own line under its name, none looks like another, and its training is faint."""
    histories = {f"digits-mlp-lr{index}": history(3 + index) for index in range(9)}
    loss = drawn(learning_curves.plot_runs(histories)).axes[0]
    faint, strong = loss.lines[::2], loss.lines[1::2]

    assert list(histories) == [line.get_label() for line in strong]
    assert history(3)["train_loss"].tolist() == faint[0].get_ydata().tolist()
    assert [(one.get_color(), one.get_linestyle()) for one in strong] == [
        (one.get_color(), one.get_linestyle()) for one in faint
    ]
    assert [1.1, 0.6, 1 / 3 + 0.1] == pytest.approx(line(loss, "digits-mlp-lr0")[1].tolist())
    assert 9 == len({(line.get_color(), line.get_linestyle()) for line in loss.lines})


def test_confusion_of_ten_classes_tells_counts_and_shares() -> None:
    """Every cell that is not empty has its count and its share of the row, and only errors colour."""
    scored = evaluation(10)
    axes = drawn(plots.plot_confusion_matrix(scored.confusion_matrix, scored.classes)).axes[0]
    share = 100 * scored.confusion_matrix[3, 3] / scored.confusion_matrix[3].sum()
    errors = axes.images[1].get_array()

    assert np.count_nonzero(scored.confusion_matrix) == len(texts(axes))
    assert f"{scored.confusion_matrix[3, 3]}\n{share:.1f}%" in texts(axes)
    assert errors.mask.diagonal().all()
    assert errors.max() == axes.images[1].get_clim()[1]


def test_confusion_title_names_the_commonest_mistake() -> None:
    """Two bees taken for ants are more than one ant taken for a bee."""
    figure = plots.plot_confusion_matrix(np.array([[5, 1], [2, 1000]]), ("ant", "bee"))

    assert "3 of 1,008 images wrong, most often bee taken for ant (2×)" == figure.get_suptitle()


def test_confusion_without_errors_is_no_division_by_zero() -> None:
    """All right, and a class without any image."""
    figure = drawn(plots.plot_confusion_matrix(np.diag([3, 4, 0]), ("ant", "bee", "cat")))

    assert "All 7 images recognised" == figure.get_suptitle()
    assert ["3\n100.0%", "4\n100.0%"] == texts(figure.axes[0])


def test_confusion_of_the_alphabet_has_counts_and_recalls() -> None:
    """With 26 classes a cell has room for the count; the share recognised stands beside the label."""
    scored = evaluation(26, missing=1)
    axes = drawn(plots.plot_confusion_matrix(scored.confusion_matrix, scored.classes)).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    recall = 100 * scored.confusion_matrix[0, 0] / scored.confusion_matrix[0].sum()

    assert {f"{count}" for count in scored.confusion_matrix[scored.confusion_matrix > 0]} == set(texts(axes))
    assert f"0  {recall:.0f}%" == labels[0]
    assert "25  –" == labels[25]


def test_confusion_of_a_hundred_classes_leaves_numbers_out() -> None:
    """No number fits, and at most 50 names."""
    scored = evaluation(100)
    axes = drawn(plots.plot_confusion_matrix(scored.confusion_matrix, scored.classes)).axes[0]

    assert [] == texts(axes)
    assert 50 == len(axes.get_xticklabels())


def test_reliability_holds_its_table() -> None:
    """Points are accuracy over confidence of the filled bins, bars their images, with the count on top."""
    scored = evaluation(10)
    above, below = drawn(plots.plot_calibration(scored)).axes
    filled = scored.calibration_curve[scored.calibration_curve["count"] > 0]
    points = line(above, "accuracy in a bin")

    assert (100 * filled["confidence"]).tolist() == points[0].tolist()
    assert (100 * filled["accuracy"]).tolist() == points[1].tolist()
    assert filled["count"].tolist() == [bar.get_height() for bar in below.patches]
    assert [f"{count}" for count in filled["count"]] == texts(below)


def test_reliability_interval_is_wilsons() -> None:
    """8 right of 10: 49.0 to 94.3 %, as tables give it."""
    probabilities = np.full((10, 2), [0.6, 0.4], np.float32)
    above = plots.plot_calibration(
        Evaluation(probabilities, np.array([0] * 8 + [1] * 2), ("no", "yes"))
    ).axes[0]
    (segment,) = above.collections[0].get_segments()

    assert [49.0, 94.3] == pytest.approx(segment[:, 1].tolist(), abs=0.05)


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (0.9, "over-confident by 40.0 points"),
        (0.3, "under-confident by 20.0 points"),
        (0.5, "accuracy 50.0%\n"),
    ],
)
def test_reliability_title_says_the_direction(confidence: float, words: str) -> None:
    """Too sure, not sure enough, or neither."""
    rest = (1 - confidence) / 7
    probabilities = np.full((4, 8), [confidence] + [rest] * 7, np.float32)
    figure = drawn(
        plots.plot_calibration(Evaluation(probabilities, np.array([0, 0, 1, 1]), tuple("abcdefgh")))
    )

    assert words in figure.get_suptitle()


def test_per_class_holds_its_table() -> None:
    """The hardest class is on top; dots are precision, recall and F1, the note has F1 and images."""
    scored = evaluation(10, missing=1)
    figure = drawn(plots.plot_class_report(scored.class_report))
    (axes,) = figure.axes
    rows = scored.class_report.dropna().sort_values("f1", kind="stable")

    assert rows["class"].tolist() == [label.get_text() for label in axes.get_yticklabels()]
    assert (100 * rows["precision"]).tolist() == line(axes, "precision")[0].tolist()
    assert (100 * rows["recall"]).tolist() == line(axes, "recall")[0].tolist()
    assert (100 * rows["f1"]).tolist() == line(axes, "F1")[0].tolist()
    assert f"F1 {100 * rows['f1'].iloc[0]:.1f}%, {rows['support'].iloc[0]} images" == texts(axes)[0]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert "No images in this split: 9" in figure.get_suptitle()


def test_per_class_of_many_shows_the_hardest() -> None:
    """A hundred rows would be three screens."""
    figure = drawn(plots.plot_class_report(evaluation(100, images=3000).class_report))

    assert 40 == len(figure.axes[0].get_yticklabels())
    assert "Only the 40 hardest are shown" in figure.get_suptitle()


def test_per_class_all_right() -> None:
    """Nothing to tell apart still gives an axis that ends at 100 %."""
    labels = np.arange(20) % 2
    scored = Evaluation(np.eye(2, dtype=np.float32)[labels], labels, ("no", "yes"))
    (axes,) = drawn(plots.plot_class_report(scored.class_report)).axes

    assert axes.get_xlim()[0] < 99.1
    assert axes.get_xlim()[1] < 101


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 32)])
def test_gallery_shows_the_surest_mistakes(shape: tuple[int, int, int]) -> None:
    """Each picture is the image of its row, grey or colour, over label → prediction and confidence."""
    scored = evaluation(10)
    images = np.random.default_rng(0).integers(0, 256, (400, *shape)).astype(np.uint8)
    figure = drawn(plots.plot_worst_errors(images, scored.misclassified, max_images=8))
    worst = scored.misclassified.iloc[0]
    picture = figure.axes[0].images[0].get_array()

    assert 8 == sum(len(axes.images) for axes in figure.axes)
    assert (images[worst["index"]].transpose(1, 2, 0).squeeze() == picture).all()
    assert (
        f"{worst['label']} → {worst['predicted']}\n{100 * worst['confidence']:.1f}%"
        in figure.axes[0].get_xlabel()
    )
    assert f"The 8 surest of {len(scored.misclassified)} mistakes on 400 images" in figure.get_suptitle()


def test_gallery_marks_suspected_labels() -> None:
    """A word says it, not only the colour."""
    mistakes = evaluation(10).misclassified.assign(label_issue=False)
    mistakes.loc[1, "label_issue"] = True
    figure = plots.plot_worst_errors(np.zeros((400, 1, 8, 8), np.uint8), mistakes)

    assert [False, True] == [axes.spines["top"].get_visible() for axes in figure.axes[:2]]
    assert [False, True] == ["label?" in axes.get_xlabel() for axes in figure.axes[:2]]
    assert "1 in all" in figure.get_suptitle()


def test_gallery_without_mistakes() -> None:
    """Nothing to show is said, not drawn."""
    figure = drawn(
        plots.plot_worst_errors(np.zeros((5, 1, 8, 8), np.uint8), evaluation(3).misclassified.head(0))
    )

    assert "No mistakes on 5 images" == figure.get_suptitle()


def test_any_class_names_fit_into_the_figures() -> None:
    """Long names, formulas and foreign letters neither warn nor stick out."""
    scored = evaluation(4, skill=0.5)
    named = Evaluation(scored.probabilities, scored.labels, ODD_NAMES)
    images = np.zeros((400, 3, 16, 16), np.uint8)
    figures = (
        plots.plot_confusion_matrix(named.confusion_matrix, ODD_NAMES),
        plots.plot_class_report(named.class_report),
        plots.plot_worst_errors(images, named.misclassified),
        learning_curves.plot_runs({name: history(3) for name in ODD_NAMES}),
    )

    assert all(inside(drawn(figure)) for figure in figures)
