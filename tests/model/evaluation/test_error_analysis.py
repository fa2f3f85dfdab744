"""Tests of the table of misclassified images and of its label issues."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from relearn.model.evaluation.error_analysis import find_label_issues, find_misclassified
from relearn.model.evaluation.metrics import Evaluation

CLASSES = ("ant", "bee", "cat")


def test_table_has_a_row_per_misclassified_image() -> None:
    """Each misclassified image has a row with its probabilities, largest margin first."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.05, 0.0, 0.95]])
    table = find_misclassified(probabilities, np.array([0, 1, 1, 0]), CLASSES)

    assert [3, 1] == table["index"].tolist()
    assert ["ant", "bee"] == table["label"].tolist()
    assert ["cat", "ant"] == table["predicted"].tolist()
    assert [0.95, 0.6] == pytest.approx(table["confidence"].tolist())
    assert [0.05, 0.3] == pytest.approx(table["label_probability"].tolist())
    assert [0.9, 0.3] == pytest.approx(table["margin"].tolist())
    assert [False, False] == table["label_issue"].tolist()


def test_ties_are_in_the_order_of_the_images() -> None:
    """The same data gives the same table."""
    probabilities = np.tile([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]], (50, 1))
    table = find_misclassified(probabilities, np.ones(100, int), CLASSES)

    assert [*range(0, 100, 2), *range(1, 100, 2)] == table["index"].tolist()


def test_empty_table_has_its_columns() -> None:
    """Without errors, the table has its columns and no rows."""
    table = find_misclassified(np.eye(3), np.arange(3), CLASSES)

    assert 0 == len(table)
    assert ["index", "label", "predicted", "confidence"] == list(table.columns)[:4]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ([0.0004, 0.9992, 0.0004], True),
        ([0.0030, 0.9966, 0.0004], False),  # the label is still plausible
        ([0.0004, 0.9400, 0.0596], False),  # the confidence is too low
        ([0.9992, 0.0004, 0.0004], False),  # the prediction is correct
    ],
)
def test_label_issue_needs_high_confidence_and_an_implausible_label(
    probabilities: list[float], expected: bool
) -> None:
    """Both limits must be passed."""
    other_images = np.tile([0.05, 0.9, 0.05], (20, 1))
    labels = np.array([0] + [1] * 20)

    assert expected == find_label_issues(np.vstack([probabilities, other_images]), labels)[0]


def test_label_issue_needs_the_class_threshold() -> None:
    """97 % is a label issue if the class threshold is 90 %, and none if it is 99.9 %."""
    labels = np.array([0] + [1] * 20)
    probabilities = [0.0005, 0.97, 0.0295]
    confident, unsure = np.tile([0.0, 0.999, 0.001], (20, 1)), np.tile([0.05, 0.9, 0.05], (20, 1))

    assert not find_label_issues(np.vstack([probabilities, confident]), labels)[0]
    assert find_label_issues(np.vstack([probabilities, unsure]), labels)[0]


def test_class_without_labels_can_reveal_a_label_issue() -> None:
    """A class without labeled images has no threshold, but its predictions count."""
    assert [True] == find_label_issues(np.array([[0.0, 0.0, 1.0]]), np.array([0])).tolist()


def test_changed_labels_are_found() -> None:
    """Of 20 changed labels of real handwriting, at least 12 are found, with at most 5 false positives."""
    digits = load_digits()
    network = MLPClassifier((64,), learning_rate_init=0.01, max_iter=40, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        network.fit(digits.data[:1000] / 16, digits.target[:1000])
    generator = np.random.default_rng(0)
    labels = digits.target[1000:].copy()
    changed = generator.choice(len(labels), 20, replace=False)
    labels[changed] = (labels[changed] + generator.integers(1, 10, 20)) % 10

    table = Evaluation(
        network.predict_proba(digits.data[1000:] / 16), labels, tuple("0123456789")
    ).misclassified
    issues = set(table["index"][table["label_issue"]])

    assert len(issues & set(changed)) >= 12
    assert len(issues - set(changed)) <= 5
