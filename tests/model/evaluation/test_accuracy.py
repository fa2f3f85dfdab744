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


@given(images=st.integers(100, 200), accuracy=st.floats(0, 1), times=st.integers(2, 9))
def test_repeated_images_are_no_more_evidence(images: int, accuracy: float, times: int) -> None:
    """With each image several times the interval is that of each once; the text has both numbers."""
    is_correct = np.arange(images) < accuracy * images
    once = Accuracy.from_images(is_correct)
    repeated = Accuracy.from_images(np.repeat(is_correct, times), np.repeat(np.arange(images), times))

    assert Accuracy.from_counts(int(is_correct.sum()), images) == once
    assert once.high - once.low == pytest.approx(repeated.high - repeated.low, rel=0.05)
    assert f"{images * times:,} images of {images} groups)" in str(repeated)
    assert repeated.groups == Accuracy.from_metrics(repeated.metrics).groups


@pytest.mark.parametrize(("groups", "largest"), [(10, 5), (30, 20)])
def test_interval_of_groups_has_its_level(groups: int, largest: int) -> None:
    """It has the true accuracy in 92 % of 1,000 samples or more; without groups in less than 85 %."""
    generator, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(1_000):
        numbers = np.repeat(np.arange(groups), generator.integers(1, largest + 1, groups))
        is_correct = generator.random(len(numbers)) < generator.beta(0.9, 0.6, groups)[numbers]
        intervals = [Accuracy.from_images(is_correct, chosen) for chosen in (numbers, None)]
        held += [interval.low <= 0.6 <= interval.high for interval in intervals]
    assert held[0] >= 920
    assert held[1] < 850


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
