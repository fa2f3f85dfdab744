"""Tests of the evaluation metrics."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
)

from relearn.model.config import TrainConfig
from relearn.model.data.dataset import LabelledImages
from relearn.model.errors import DataError
from relearn.model.evaluation.metrics import (
    MAX_GAP,
    METRICS,
    Evaluation,
    GeneralizationGap,
    compute_generalization_gap,
    evaluate,
    get_metric,
)
from relearn.model.inference.classifier import Classifier
from relearn.model.inference.model_card import ModelCard
from relearn.model.networks.registry import build_network

CLASSES = ("ant", "bee", "cat")


def random_probabilities(labels: np.ndarray, classes: int, skill: float = 2.0) -> np.ndarray:
    """Return probabilities of a classifier whose accuracy grows with `skill`."""
    logits = np.random.default_rng(7).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    odds = np.exp(logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def four_images() -> Evaluation:
    """Four images whose metrics can be computed by hand; the third is misclassified."""
    probabilities = np.array(
        [[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.1, 0.85, 0.05], [0.25, 0.25, 0.5]], np.float32
    )
    return Evaluation(probabilities, np.array([0, 1, 0, 2]), CLASSES)


@pytest.fixture
def many_images() -> Evaluation:
    """Five hundred predictions over ten classes, a third of them wrong."""
    labels = np.random.default_rng(1).integers(0, 10, 500)
    return Evaluation(random_probabilities(labels, 10), labels, tuple("0123456789"))


def test_loss_by_hand(four_images: Evaluation) -> None:
    """The loss is the mean of -ln p(label), in nats."""
    expected = -(math.log(0.5) + math.log(0.7) + math.log(0.1) + math.log(0.5)) / 4

    assert expected == pytest.approx(four_images.loss, rel=1e-6)


def test_accuracy_by_hand(four_images: Evaluation) -> None:
    """Three of four images are correct."""
    assert 0.75 == four_images.accuracy


def test_confusion_matrix_by_hand(four_images: Evaluation) -> None:
    """Rows are labels, columns are predictions: one ant is predicted as a bee."""
    assert [[1, 1, 0], [0, 1, 0], [0, 0, 1]] == four_images.confusion_matrix.tolist()


def test_class_report_by_hand(four_images: Evaluation) -> None:
    """There is one row per class, in the order of the classes."""
    table = four_images.class_report

    assert ["class", "precision", "recall", "f1", "support"] == list(table.columns)
    assert list(CLASSES) == table["class"].tolist()
    assert [1, 0.5, 1] == table["precision"].tolist()
    assert [0.5, 1, 1] == table["recall"].tolist()
    assert [2 / 3, 2 / 3, 1] == pytest.approx(table["f1"].tolist())
    assert [2, 1, 1] == table["support"].tolist()


def test_calibration_curve_and_ece_by_hand(four_images: Evaluation) -> None:
    """Bins are (7/15, 8/15], (10/15, 11/15] and (12/15, 13/15]; the ECE is weighted by image counts."""
    filled = four_images.calibration_curve[four_images.calibration_curve["count"] > 0]

    assert [7, 10, 12] == filled.index.tolist()
    assert [2, 1, 1] == filled["count"].tolist()
    assert [0.5, 0.7, 0.85] == pytest.approx(filled["confidence"].tolist())
    assert [1, 1, 0] == filled["accuracy"].tolist()
    assert 2 / 4 * 0.5 + 1 / 4 * 0.3 + 1 / 4 * 0.85 == pytest.approx(four_images.ece)


def test_calibration_curve_covers_every_image(many_images: Evaluation) -> None:
    """Fifteen bins of equal width from 0 to 1 hold all images; empty bins have no mean."""
    table = many_images.calibration_curve

    assert 15 == len(table)
    assert [table["lower"].iloc[0], table["upper"].iloc[-1]] == [0, 1]
    assert [1 / 15] * 15 == pytest.approx((table["upper"] - table["lower"]).tolist())
    assert len(many_images) == table["count"].sum()
    assert (table["accuracy"].isna() == (table["count"] == 0)).all()


def test_metrics_agree_with_scikit_learn(many_images: Evaluation) -> None:
    """Each metric that scikit-learn has too is the same."""
    labels, predicted = many_images.labels, many_images.predicted
    expected = {
        "loss": log_loss(labels, many_images.probabilities),
        "accuracy": accuracy_score(labels, predicted),
        "f1_macro": f1_score(labels, predicted, average="macro"),
        "precision_macro": precision_score(labels, predicted, average="macro"),
        "recall_macro": recall_score(labels, predicted, average="macro"),
    }

    assert expected == pytest.approx({name: many_images.metrics[name] for name in expected}, abs=1e-6)
    assert (confusion_matrix(labels, predicted) == many_images.confusion_matrix).all()


def test_loss_equals_the_training_loss() -> None:
    """The loss from probabilities equals the loss that training computes from logits."""
    logits = 5 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    expected = torch.nn.functional.cross_entropy(logits, labels).item()

    evaluation = Evaluation(logits.softmax(1).numpy(), labels.numpy(), tuple("0123456789"))

    assert expected == pytest.approx(evaluation.loss, abs=1e-5)


def test_loss_of_certain_predictions_is_finite() -> None:
    """A label with probability 0 costs 87.3 nats, a label with probability 1 costs 0."""
    certain = np.eye(3, dtype=np.float32)[[0, 1]]

    assert 0 == Evaluation(certain, np.array([0, 1]), CLASSES).loss
    assert 87.34 == pytest.approx(Evaluation(certain, np.array([1, 0]), CLASSES).loss, abs=0.01)
    assert 1 == Evaluation(certain, np.array([1, 0]), CLASSES).ece


def test_all_correct() -> None:
    """A classifier without errors has perfect metrics and no misclassified images."""
    labels = np.arange(30) % 3
    evaluation = Evaluation(np.eye(3, dtype=np.float32)[labels], labels, CLASSES)

    assert {name: evaluation.metrics[name] for name in ("loss", "ece")} == {"loss": 0, "ece": 0}
    assert all(1 == evaluation.metrics[name] for name in METRICS if name.endswith("macro"))
    assert evaluation.misclassified.empty


def test_class_without_images_is_not_counted() -> None:
    """A class without images has NaN, and the means are over the other classes."""
    evaluation = Evaluation(np.eye(3, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 1]), CLASSES)
    table = evaluation.class_report

    assert table.loc[2, ["precision", "recall", "f1"]].isna().all()
    assert 0 == table.loc[2, "support"]
    assert 0.75 == evaluation.metrics["recall_macro"]
    assert (3, 3) == evaluation.confusion_matrix.shape


def test_class_that_is_never_predicted_has_precision_0() -> None:
    """A class with images but without predictions has precision 0, which lowers the mean."""
    evaluation = Evaluation(np.eye(3, dtype=np.float32)[[0, 0, 2]], np.array([0, 1, 2]), CLASSES)

    assert 0 == evaluation.class_report.loc[1, "precision"]
    assert 0.5 == evaluation.metrics["precision_macro"]


def test_one_image() -> None:
    """A split of one image has finite metrics, without a division by zero."""
    evaluation = Evaluation(np.array([[0.25, 0.75]], np.float32), np.array([1]), ("no", "yes"))

    assert {
        *("accuracy", "accuracy_low", "accuracy_high", "images", "groups"),
        *("loss", "f1_macro", "precision_macro", "recall_macro", "ece"),
    } == set(evaluation.metrics)
    assert all(math.isfinite(value) for value in evaluation.metrics.values())
    assert 0.25 == pytest.approx(evaluation.ece)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), r"labels: got 0\.\.3, accepted: 0\.\.2"),
        (np.array([-1, 0]), r"got -1\.\.0, accepted: 0\.\.2"),
        (np.array([0.0, 1.0]), "got float64, accepted: integers"),
        (np.array([], int), r"got shape \(0,\)"),
        (np.array([[0, 1]]), r"got shape \(1, 2\)"),
        (np.array([0]), r"probabilities: got shape \(2, 3\), accepted: \(1, 3\)"),
    ],
)
def test_invalid_labels_are_rejected(labels: np.ndarray, message: str) -> None:
    """The message has the rejected and the accepted values."""
    with pytest.raises(DataError, match=message):
        Evaluation(np.full((2, 3), 1 / 3, np.float32), labels, CLASSES)


def test_evaluate_uses_the_predictions_of_the_classifier() -> None:
    """The probabilities are from `Classifier.predict`, the classes from its card."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    config = TrainConfig(hidden_sizes=(4,))
    card = ModelCard(
        config=config,
        dataset="tiny",
        classes=CLASSES,
        shape=(1, 8, 8),
        style="mnist",
        fingerprint="0" * 64,
        parameters=1,
    )
    classifier = Classifier(build_network(config, card.shape, 3), card)

    evaluation = evaluate(classifier, LabelledImages(images, np.arange(20) % 3))

    assert CLASSES == evaluation.classes
    assert (classifier.predict(images) == evaluation.probabilities).all()


def test_gap_is_the_distance_from_training() -> None:
    """Both gaps start from the training accuracy; small ones are no warning."""
    gap = compute_generalization_gap(0.9, 0.88, 0.87)

    assert (0.02, 0.03) == pytest.approx((gap.validation, gap.test))
    assert gap.warning is None


def test_a_gap_may_be_negative() -> None:
    """In a steep first epoch the training accuracy is lower."""
    gap = compute_generalization_gap(0.8, 0.85, 1.0)

    assert pytest.approx(-0.05) == gap.validation
    assert gap.test < gap.validation
    assert gap.warning is None


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (GeneralizationGap(0.14, 0.0), "14.0 points above validation (limit 5)"),
        (GeneralizationGap(0.0, 0.061), "6.1 points above test (limit 5)"),
        (GeneralizationGap(0.14, 0.2), "14.0 points above validation and 20.0 points above test (limit 5)"),
    ],
)
def test_large_gap_causes_a_warning(gap: GeneralizationGap, expected: str) -> None:
    """The warning is one line with the size of the gap, the limit and remedies."""
    assert expected in str(gap.warning)
    assert "\n" not in str(gap.warning)


def test_gap_at_the_limit_causes_no_warning() -> None:
    """Only a gap above the limit causes a warning."""
    assert GeneralizationGap(MAX_GAP, MAX_GAP).warning is None


def test_every_metric_is_described(many_images: Evaluation) -> None:
    """Each logged metric is in `METRICS`, with its direction and one sentence."""
    assert {*many_images.metrics, "generalization_gap"} == set(METRICS)
    assert all(entry.direction in ("max", "min") and entry.help.endswith(".") for entry in METRICS.values())


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("test/loss", "min"),
        ("epoch/val_accuracy", "max"),
        ("ece", "min"),
        ("test/generalization_gap", "min"),
        ("test/f1_macro", "max"),
    ],
)
def test_direction_of_a_logged_key(key: str, direction: str) -> None:
    """The prefix of a split does not change the direction."""
    assert direction == get_metric(key).direction  # type: ignore[union-attr]


def test_direction_of_an_unknown_key() -> None:
    """Diagnostics have no direction."""
    assert get_metric("training/gradients/hidden1/dead_fraction") is None
