"""Tests of the power of McNemar's test against simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relearn.model.evaluation.metrics import Evaluation
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.evaluation.power import (
    POWER,
    compute_power,
    count_images_needed,
    describe_power,
    find_critical_wins,
    find_visible_gain,
)
from relearn.model.evaluation.significance import binomial_test, mcnemar


@pytest.mark.parametrize(
    ("images", "discordant", "gain", "level"),
    [
        (10, 0.5, 0.3, 0.05),
        (30, 0.1, 0.05, 0.025),
        (60, 0.2, 0.1, 0.05),
        (300, 0.05, 0.02, 0.05),
        (1_000, 0.03, 0.01, 0.0025),
        (10_000, 0.012, 0.003, 0.05),
    ],
)
def test_power_equals_the_simulated_one(images: int, discordant: float, gain: float, level: float):
    """The computed power is the fraction of 20,000 simulated comparisons that find the gain, to 1 point."""
    probabilities = (discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant
    draws = np.random.default_rng(1).multinomial(images, probabilities, 20_000)
    counts, positions = np.unique(draws[:, :2], axis=0, return_inverse=True)
    found = np.array([mcnemar(int(a), int(b)) <= level for a, b in counts])[positions]

    assert found.mean() == pytest.approx(compute_power(images, discordant, gain, level), abs=0.01)


@given(st.integers(1, 5_000), st.floats(1e-6, 0.5))
def test_critical_wins_are_the_fewest_that_are_significant(count: int, level: float):
    """With one win less the p-value is above the level."""
    (wins,) = find_critical_wins(np.array([count]), level)
    assert binomial_test(wins, count, 0.5) <= level < binomial_test(wins - 1, count, 0.5)


def test_visible_gain_and_number_of_images_agree():
    """The visible gain has the stated power, and the number of images that it needs is that number."""
    gain = find_visible_gain(300, 0.1, 0.025)

    assert pytest.approx(POWER, abs=0.02) == compute_power(300, 0.1, gain, 0.025)
    assert 300 == pytest.approx(count_images_needed(gain, 0.1, 0.025, at_least=1), rel=0.1)


def test_few_images_show_nothing():
    """No result on four images is significant, and the sentence says how many more would show something."""
    evaluation = Evaluation(np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], np.array([0, 1, 0, 1]), ("a", "b"))
    comparison = PairedComparison.from_evaluations(evaluation, evaluation)

    text = describe_power(comparison, 0.025)

    assert text.startswith("4 images show no gain; ")
    assert text.endswith(" more labeled ones bring it to 20 points")


def test_no_number_of_images_is_named_for_a_gain_that_is_visible() -> None:
    """10,000 equal predictions show 0.1 points: no sentence speaks of 0 more."""
    labels = np.arange(10_000) % 2
    evaluation = Evaluation(np.eye(2, dtype=np.float32)[labels], labels, ("a", "b"))
    text = describe_power(PairedComparison.from_evaluations(evaluation, evaluation), 0.025)
    assert text.endswith("cannot be told from chance (power 80%)")
