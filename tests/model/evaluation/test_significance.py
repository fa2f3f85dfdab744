"""Tests of the significance tests against scipy and published numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relearn.model.evaluation.significance import (
    binomial_test,
    holm_correction,
    mcnemar,
    sign_flip_test,
    spend_level,
)

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_upper_tail(gained: int, lost: int):
    """The p-value is the probability that fair tosses give so many gains or more."""
    expected = stats.binom.sf(gained - 1, gained + lost, 0.5)
    assert pytest.approx(expected) == mcnemar(gained, lost)


def test_mcnemar_agrees_with_published_numbers():
    """59 against 6: the example of McNemar's test in Agresti, "Categorical Data Analysis", where p < 1e-9."""
    expected = sum(math.comb(65, lost) for lost in range(7)) / 2**65
    assert pytest.approx(expected, rel=1e-9, abs=0) == mcnemar(59, 6)
    assert 1.0 == mcnemar(0, 0)


@given(COUNTS, st.integers(1, 60))
def test_sign_flips_of_ones_are_mcnemars_test(gained: int, lost: int):
    """With gains of -1, 0 and 1 the test is McNemar's, within the precision of 10,000 flips."""
    gains = np.r_[np.ones(gained), np.zeros(7), -np.ones(lost)]
    assert mcnemar(gained, lost) == pytest.approx(sign_flip_test(gains), abs=0.02)


@pytest.mark.parametrize("count", [200, 1_500])
def test_sign_flip_test_agrees_with_scipy(count: int):
    """With few images the sums are drawn, with many they are normal: both are scipy's permutation test."""
    rng = np.random.default_rng(count)
    gains = rng.normal(1 / np.sqrt(count), 1, count) * rng.exponential(1, count)
    expected = stats.permutation_test(
        (gains,), np.sum, permutation_type="samples", n_resamples=5_000, alternative="greater", rng=rng
    )
    assert expected.pvalue == pytest.approx(sign_flip_test(gains), abs=0.02)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40))
def test_sign_flip_test_is_one_sided(gains: list[float]):
    """The p-values of both directions add up to 1 or more, and are probabilities."""
    p_values = sign_flip_test(np.array(gains)), sign_flip_test(-np.array(gains))
    assert 0.97 <= sum(p_values)
    assert all(0 < p_value <= 1 for p_value in p_values)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.05, 0.95))
def test_binomial_test_agrees_with_scipy(correct: int, images: int, chance: float):
    """The p-value is that of the exact one-sided test."""
    correct = min(correct, images)
    expected = stats.binomtest(correct, images, chance, alternative="greater").pvalue
    assert pytest.approx(expected) == binomial_test(correct, images, chance)


def test_holm_correction():
    """The smallest p-value counts for all tests, the next for one less; the order is kept."""
    assert [0.03, 0.06, 0.06, 0.02] == pytest.approx(holm_correction([0.01, 0.04, 0.03, 0.005]))
    assert [0.2] == holm_correction([0.2])
    assert [] == holm_correction([])
    assert [1.0, 1.0] == holm_correction([0.9, 0.8])


@given(st.floats(0.001, 0.5), st.integers(1, 5_000))
def test_levels_add_up_to_the_significance(significance: float, tests: int):
    """The levels of any number of tests stay below it, and half of it is for the first."""
    levels = [spend_level(significance, earlier) for earlier in range(tests)]
    assert sum(levels) <= significance
    assert significance / 2 == levels[0]


@given(st.integers(20, 300))
def test_clear_wins_are_as_unlikely_as_they_are(wins: int) -> None:
    """However many candidates came before, 40 wins to none are significant at the level that is left."""
    assert mcnemar(wins, 0) <= sign_flip_test(np.full(wins, 0.1)) < 1e-4


def test_no_gain_is_no_evidence() -> None:
    """Neither without a difference nor with a loss."""
    assert 1 == sign_flip_test(np.zeros(5)) == sign_flip_test(np.full(40, -1.0))
