"""Promises of the table of mistakes and of its suspicion of labels."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from relearn.model.evaluation.error_analysis import find_label_issues, find_misclassified
from relearn.model.evaluation.metrics import Evaluation

CLASSES = ("ant", "bee", "cat")


def test_every_mistake_and_nothing_else() -> None:
    """One row for each wrong image, the surest first, with the numbers of that image."""
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.05, 0.0, 0.95]])
    table = find_misclassified(probabilities, np.array([0, 1, 1, 0]), CLASSES)

    assert [3, 1] == table["index"].tolist()
    assert ["ant", "bee"] == table["label"].tolist()
    assert ["cat", "ant"] == table["predicted"].tolist()
    assert [0.95, 0.6] == pytest.approx(table["confidence"].tolist())
    assert [0.05, 0.3] == pytest.approx(table["label_probability"].tolist())
    assert [0.9, 0.3] == pytest.approx(table["margin"].tolist())
    assert [False, False] == table["label_issue"].tolist()


def test_ties_come_in_the_order_of_the_images() -> None:
    """The same data gives the same table."""
    answers = np.tile([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]], (50, 1))
    table = find_misclassified(answers, np.ones(100, int), CLASSES)

    assert [*range(0, 100, 2), *range(1, 100, 2)] == table["index"].tolist()


def test_no_mistakes_keep_the_columns() -> None:
    """An empty table still says what it would hold."""
    table = find_misclassified(np.eye(3), np.arange(3), CLASSES)

    assert 0 == len(table)
    assert ["index", "label", "predicted", "confidence"] == list(table.columns)[:4]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([0.0004, 0.9992, 0.0004], True),
        ([0.0030, 0.9966, 0.0004], False),  # the label stays plausible
        ([0.0004, 0.9400, 0.0596], False),  # another class, not surely enough
        ([0.9992, 0.0004, 0.0004], False),  # right
    ],
)
def test_suspicion_needs_a_sure_answer_and_an_implausible_label(answer: list[float], expected: bool) -> None:
    """Both limits have to be passed."""
    others = np.tile([0.05, 0.9, 0.05], (20, 1))
    labels = np.array([0] + [1] * 20)

    assert expected == find_label_issues(np.vstack([answer, others]), labels)[0]


def test_usual_confidence_is_the_bar_where_it_is_high() -> None:
    """97 % for a class that usually gets 99.9 % is nothing special; where it gets 90 %, it is."""
    labels = np.array([0] + [1] * 20)
    answer = [0.0005, 0.97, 0.0295]
    sure, unsure = np.tile([0.0, 0.999, 0.001], (20, 1)), np.tile([0.05, 0.9, 0.05], (20, 1))

    assert not find_label_issues(np.vstack([answer, sure]), labels)[0]
    assert find_label_issues(np.vstack([answer, unsure]), labels)[0]


def test_class_without_labels_can_be_the_better_one() -> None:
    """A class that no image is labelled with has no usual confidence, and still counts."""
    assert [True] == find_label_issues(np.array([[0.0, 0.0, 1.0]]), np.array([0])).tolist()


def test_labels_changed_on_purpose_are_found() -> None:
    """Of 20 labels changed in real handwriting, most are suspected, and few others."""
    digits = load_digits()
    network = MLPClassifier((64,), learning_rate_init=0.01, max_iter=40, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        network.fit(digits.data[:1000] / 16, digits.target[:1000])
    draw = np.random.default_rng(0)
    labels = digits.target[1000:].copy()
    changed = draw.choice(len(labels), 20, replace=False)
    labels[changed] = (labels[changed] + draw.integers(1, 10, 20)) % 10

    table = Evaluation(
        network.predict_proba(digits.data[1000:] / 16), labels, tuple("0123456789")
    ).misclassified
    found = set(table["index"][table["label_issue"]])

    assert len(found & set(changed)) >= 12
    assert len(found - set(changed)) <= 5
