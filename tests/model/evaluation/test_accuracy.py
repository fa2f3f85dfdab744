"""Accuracies with their intervals: text, metrics, and the drop from one to another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.model.evaluation.accuracy import Accuracy


@st.composite
def accuracies(draw: st.DrawFn) -> Accuracy:
    images = draw(st.integers(1, 10_000))
    return Accuracy.from_counts(draw(st.integers(0, images)), images)


def test_interval_is_wilsons() -> None:
    """For 9 of 10 it is the one from the textbook."""
    assert "90.0 % (95 % interval 59.6–98.2, 10 images)" == str(Accuracy.from_counts(9, 10))


def test_text_has_interval_and_number_of_images() -> None:
    """A percentage has one decimal, in a sentence and in a table."""
    accuracy = Accuracy.from_counts(284, 292)

    assert "97.3 % (95 % interval 94.7–98.6, 292 images)" == str(accuracy)
    assert "97.3 (94.7–98.6)" == accuracy.in_table


@given(accuracy=accuracies())
def test_interval_contains_the_accuracy(accuracy: Accuracy) -> None:
    """It lies in 0..1 and is never of width 0, and an accuracy survives as metrics."""
    assert 0 <= accuracy.low <= accuracy.fraction + 1e-12
    assert accuracy.fraction - 1e-12 <= accuracy.high <= 1
    assert accuracy.low < accuracy.high
    assert accuracy == Accuracy.from_metrics(accuracy.metrics)


@given(earlier=accuracies(), later=accuracies())
def test_drop_and_gain_mirror_each_other(earlier: Accuracy, later: Accuracy) -> None:
    """The interval contains the difference, and exchanging the two reverses it."""
    low, high = later.compute_drop(earlier)

    assert low - 1e-12 <= earlier.fraction - later.fraction <= high + 1e-12
    assert (-high, -low) == pytest.approx(earlier.compute_drop(later))


def test_drop_has_the_interval_of_the_publication() -> None:
    """Newcombe 1998, Table II, method 10: 56/70 minus 48/80 is 0.0524 to 0.3339."""
    assert (0.0524, 0.3339) == pytest.approx(
        Accuracy.from_counts(48, 80).compute_drop(Accuracy.from_counts(56, 70)), abs=5e-5
    )


@pytest.mark.parametrize(("images", "probability"), [(30, 0.6), (60, 0.9), (300, 0.99)])
def test_interval_of_the_drop_has_its_level(images: int, probability: float) -> None:
    """Two samples of the same accuracy seem to drop in at most about 2.5 % of cases."""
    counts = np.random.default_rng(0).binomial(images, probability, (1_000, 2))
    earlier, later = ([Accuracy.from_counts(int(count), images) for count in row] for row in counts.T)

    drops = sum(after.compute_drop(before)[0] > 0 for before, after in zip(earlier, later, strict=True))
    assert drops <= 40
