"""Promises of the numbers that a classifier is judged by."""

import math

import numpy as np
import pandas as pd
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
from relearn.model.errors import CorruptDataError, DataError
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


def answers(labels: np.ndarray, classes: int, skill: float = 2.0) -> np.ndarray:
    """Probabilities of a classifier that is right more often the greater its `skill`."""
    logits = np.random.default_rng(7).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += skill
    odds = np.exp(logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def four() -> Evaluation:
    """Four images whose numbers can be worked out by hand; the third is wrong."""
    probabilities = np.array(
        [[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.1, 0.85, 0.05], [0.25, 0.25, 0.5]], np.float32
    )
    return Evaluation(probabilities, np.array([0, 1, 0, 2]), CLASSES)


@pytest.fixture
def many() -> Evaluation:
    """Five hundred answers over ten classes, a third of them wrong."""
    labels = np.random.default_rng(1).integers(0, 10, 500)
    return Evaluation(answers(labels, 10), labels, tuple("0123456789"))


def test_loss_by_hand(four: Evaluation) -> None:
    """The loss is the mean of -ln p(label), in nats."""
    expected = -(math.log(0.5) + math.log(0.7) + math.log(0.1) + math.log(0.5)) / 4

    assert expected == pytest.approx(four.loss, rel=1e-6)


def test_accuracy_by_hand(four: Evaluation) -> None:
    """Three of four are right."""
    assert 0.75 == four.accuracy


def test_confusion_by_hand(four: Evaluation) -> None:
    """Rows are labels, columns predictions: one ant was taken for a bee."""
    assert [[1, 1, 0], [0, 1, 0], [0, 0, 1]] == four.confusion_matrix.tolist()


def test_per_class_by_hand(four: Evaluation) -> None:
    """One row a class, in the order of the classes."""
    table = four.class_report

    assert ["class", "precision", "recall", "f1", "support"] == list(table.columns)
    assert list(CLASSES) == table["class"].tolist()
    assert [1, 0.5, 1] == table["precision"].tolist()
    assert [0.5, 1, 1] == table["recall"].tolist()
    assert [2 / 3, 2 / 3, 1] == pytest.approx(table["f1"].tolist())
    assert [2, 1, 1] == table["support"].tolist()


def test_reliability_and_ece_by_hand(four: Evaluation) -> None:
    """Bins are (7/15, 8/15], (10/15, 11/15] and (12/15, 13/15]; the ECE weighs them by their images."""
    filled = four.calibration_curve[four.calibration_curve["count"] > 0]

    assert [7, 10, 12] == filled.index.tolist()
    assert [2, 1, 1] == filled["count"].tolist()
    assert [0.5, 0.7, 0.85] == pytest.approx(filled["confidence"].tolist())
    assert [1, 1, 0] == filled["accuracy"].tolist()
    assert 2 / 4 * 0.5 + 1 / 4 * 0.3 + 1 / 4 * 0.85 == pytest.approx(four.ece)


def test_reliability_covers_every_image(many: Evaluation) -> None:
    """Fifteen bins of equal width from 0 to 1 hold all images; empty ones have no mean."""
    table = many.calibration_curve

    assert 15 == len(table)
    assert [table["lower"].iloc[0], table["upper"].iloc[-1]] == [0, 1]
    assert [1 / 15] * 15 == pytest.approx((table["upper"] - table["lower"]).tolist())
    assert len(many) == table["count"].sum()
    assert (table["accuracy"].isna() == (table["count"] == 0)).all()


def test_numbers_agree_with_scikit_learn(many: Evaluation) -> None:
    """Everything that scikit-learn computes too comes out the same."""
    labels, predicted = many.labels, many.predicted
    expected = {
        "loss": log_loss(labels, many.probabilities),
        "accuracy": accuracy_score(labels, predicted),
        "f1_macro": f1_score(labels, predicted, average="macro"),
        "precision_macro": precision_score(labels, predicted, average="macro"),
        "recall_macro": recall_score(labels, predicted, average="macro"),
    }

    assert expected == pytest.approx({name: many.metrics[name] for name in expected}, abs=1e-6)
    assert (confusion_matrix(labels, predicted) == many.confusion_matrix).all()


def test_loss_equals_the_training_loss() -> None:
    """From probabilities the loss is what training computes from logits."""
    logits = 5 * torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 10
    expected = torch.nn.functional.cross_entropy(logits, labels).item()

    evaluation = Evaluation(logits.softmax(1).numpy(), labels.numpy(), tuple("0123456789"))

    assert expected == pytest.approx(evaluation.loss, abs=1e-5)


def test_certainty_costs_a_finite_loss() -> None:
    """A probability of exactly 0 for the label costs 87.3 nats, of exactly 1 nothing at all."""
    sure = np.eye(3, dtype=np.float32)[[0, 1]]

    assert 0 == Evaluation(sure, np.array([0, 1]), CLASSES).loss
    assert 87.34 == pytest.approx(Evaluation(sure, np.array([1, 0]), CLASSES).loss, abs=0.01)
    assert 1 == Evaluation(sure, np.array([1, 0]), CLASSES).ece


def test_all_correct() -> None:
    """A classifier without mistakes has perfect numbers and an empty table of mistakes."""
    labels = np.arange(30) % 3
    evaluation = Evaluation(np.eye(3, dtype=np.float32)[labels], labels, CLASSES)

    assert {name: evaluation.metrics[name] for name in ("loss", "ece")} == {"loss": 0, "ece": 0}
    assert all(1 == evaluation.metrics[name] for name in METRICS if name.endswith("macro"))
    assert evaluation.misclassified.empty


def test_class_missing_in_the_split_counts_nowhere() -> None:
    """A class without images has no values, and the means are over the others."""
    evaluation = Evaluation(np.eye(3, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 1]), CLASSES)
    table = evaluation.class_report

    assert table.loc[2, ["precision", "recall", "f1"]].isna().all()
    assert 0 == table.loc[2, "support"]
    assert 0.75 == evaluation.metrics["recall_macro"]
    assert (3, 3) == evaluation.confusion_matrix.shape


def test_class_never_predicted_has_no_precision() -> None:
    """A class that was there and never named has precision 0, which lowers the mean."""
    evaluation = Evaluation(np.eye(3, dtype=np.float32)[[0, 0, 2]], np.array([0, 1, 2]), CLASSES)

    assert 0 == evaluation.class_report.loc[1, "precision"]
    assert 0.5 == evaluation.metrics["precision_macro"]


def test_one_image() -> None:
    """A split of one image gives numbers, no division by zero."""
    evaluation = Evaluation(np.array([[0.25, 0.75]], np.float32), np.array([1]), ("no", "yes"))

    assert {"loss", "accuracy", "f1_macro", "precision_macro", "recall_macro", "ece"} == set(
        evaluation.metrics
    )
    assert all(math.isfinite(value) for value in evaluation.metrics.values())
    assert 0.25 == pytest.approx(evaluation.ece)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_answers_that_are_not_finite_are_refused(bad: float) -> None:
    """A diverged network is named as such, with its first image."""
    probabilities = np.full((4, 3), 1 / 3, np.float32)
    probabilities[2, 1] = bad

    with pytest.raises(CorruptDataError, match=r"1 of 4 images is not finite, first image 2"):
        Evaluation(probabilities, np.zeros(4, int), CLASSES)


@pytest.mark.parametrize("row", [[3.0, -1.0, -1.0], [2.0, 1.0, 0.5], [0.1, 0.1, 0.1]])
def test_logits_are_no_probabilities(row: list[float]) -> None:
    """Rows outside 0..1 or with another sum than 1 are refused."""
    with pytest.raises(CorruptDataError, match="no probabilities"):
        Evaluation(np.array([row], np.float32), np.array([0]), CLASSES)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), r"got 0\.\.3, accepted: 0\.\.2"),
        (np.array([-1, 0]), r"got -1\.\.0, accepted: 0\.\.2"),
        (np.array([0.0, 1.0]), "got float64, accepted: integers"),
        (np.array([], int), r"got shape \(0,\)"),
        (np.array([[0, 1]]), r"got shape \(1, 2\)"),
        (np.array([0]), r"probabilities: got shape \(2, 3\), accepted: \(1, 3\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, message: str) -> None:
    """The message says what was got and what is accepted."""
    with pytest.raises(DataError, match=message):
        Evaluation(np.full((2, 3), 1 / 3, np.float32), labels, CLASSES)


def test_evaluate_scores_what_the_classifier_predicts() -> None:
    """The probabilities are those of `Classifier.predict`, the classes those of its card."""
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


@pytest.fixture
def history() -> pd.DataFrame:
    return pd.DataFrame(
        {"epoch": [1, 2, 3], "train_accuracy": [0.8, 0.9, 1.0], "val_accuracy": [0.85, 0.88, 0.86]}
    )


def test_gap_is_taken_at_the_best_epoch(history: pd.DataFrame) -> None:
    """Training minus validation, and minus test, where the weights were kept and not where it ended."""
    gap = compute_generalization_gap(history, best_epoch=2, test_accuracy=0.87)

    assert {"generalization_gap": 0.02, "test_gap": 0.03} == pytest.approx(gap.metrics)
    assert gap.warning is None


def test_a_gap_may_be_negative(history: pd.DataFrame) -> None:
    """In a steep first epoch the training accuracy is the lower one."""
    gap = compute_generalization_gap(history, best_epoch=1, test_accuracy=1.0)

    assert pytest.approx(-0.05) == gap.metrics["generalization_gap"]
    assert gap.test < gap.validation
    assert gap.warning is None


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (GeneralizationGap(0.14, 0.0), "14.0 points above validation (limit 5)"),
        (GeneralizationGap(0.0, 0.061), "6.1 points above test (limit 5)"),
        (GeneralizationGap(0.14, 0.2), "14.0 points above validation and 20.0 points above test (limit 5)"),
    ],
)
def test_large_gap_is_warned_of(gap: GeneralizationGap, words: str) -> None:
    """One line says by how much, over which limit and what helps."""
    assert words in str(gap.warning)
    assert "\n" not in str(gap.warning)


def test_gap_at_the_limit_is_no_warning() -> None:
    """Only more than the limit is too much."""
    assert GeneralizationGap(MAX_GAP, MAX_GAP).warning is None


def test_every_metric_is_described(many: Evaluation) -> None:
    """All that is logged stands in METRICS, with its direction and one sentence."""
    logged = {**many.metrics, **GeneralizationGap(0.1, 0.1).metrics}

    assert set(logged) == set(METRICS)
    assert all(entry.direction in ("max", "min") and entry.help.endswith(".") for entry in METRICS.values())


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("test_loss", "min"),
        ("val_accuracy", "max"),
        ("ece", "min"),
        ("test_gap", "min"),
        ("test_f1_macro", "max"),
    ],
)
def test_direction_of_a_logged_key(key: str, direction: str) -> None:
    """The part of the data in front of a name changes nothing."""
    assert direction == get_metric(key).direction  # type: ignore[union-attr]


def test_direction_of_an_unknown_key() -> None:
    """Diagnostics have no better or worse."""
    assert get_metric("gradients/hidden1") is None
