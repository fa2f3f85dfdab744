"""Tests of the paired statistics against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relearn.model.evaluation.significance import (
    PairedComparison,
    bootstrap_ci,
    mcnemar,
    wilson_interval,
)

COUNTS = st.integers(0, 60)


def correct_masks(gained: int, lost: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of correct predictions of candidate and champion with these discordant counts."""
    candidate, champion = np.ones(images, bool), np.ones(images, bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    return candidate, champion


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int):
    """The p-value sums the probabilities of all outcomes at most as likely as the observed one."""
    tosses = gained + lost
    likelihood = stats.binom.pmf(np.arange(tosses + 1), tosses, 0.5)
    expected = likelihood[likelihood <= likelihood[gained] * (1 + 1e-7)].sum()

    assert pytest.approx(min(1.0, expected)) == mcnemar(gained, lost)
    assert mcnemar(gained, lost) == pytest.approx(mcnemar(lost, gained))


def test_mcnemar_agrees_with_published_numbers():
    """59 against 6: the example of McNemar's test in Agresti, "Categorical Data Analysis", where p < 1e-9."""
    expected = 2 * sum(math.comb(65, lost) for lost in range(7)) / 2**65
    assert pytest.approx(expected, rel=1e-9, abs=0) == mcnemar(59, 6)
    assert mcnemar(59, 6) < 1e-9
    assert 1.0 == mcnemar(0, 0)


@given(COUNTS, COUNTS)
def test_one_sided_mcnemar_is_the_lower_tail(gained: int, lost: int):
    """The p-value is the binomial distribution function at the candidate's count."""
    assert pytest.approx(stats.binom.cdf(gained, gained + lost, 0.5)) == mcnemar(gained, lost, "less")


@given(COUNTS, st.integers(1, 10_000))
def test_wilson_interval_agrees_with_scipy(wrong: int, images: int):
    """Also if none or all of the images are correct."""
    correct = max(0, images - wrong)
    expected = stats.binomtest(correct, images).proportion_ci(0.95, "wilson")
    assert pytest.approx((expected.low, expected.high), abs=1e-12) == wilson_interval(correct, images)


@pytest.mark.parametrize(("gained", "lost", "images"), [(30, 12, 1_000), (5, 5, 360), (80, 10, 10_000)])
def test_bootstrap_interval_agrees_with_scipy(gained: int, lost: int, images: int):
    """Resampling counts equals resampling images, within the precision of 10,000 resamples."""
    candidate, champion = correct_masks(gained, lost, images)
    expected = stats.bootstrap(
        ((candidate.astype(float) - champion),),
        np.mean,
        n_resamples=10_000,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(1),
    ).confidence_interval

    low, high = bootstrap_ci(gained, lost, images)
    width = expected.high - expected.low
    assert abs(low - expected.low) < 0.06 * width
    assert abs(high - expected.high) < 0.06 * width


def test_comparison_has_the_discordant_counts():
    """A comparison has both counts and the accuracy difference, and is deterministic."""
    candidate, champion = correct_masks(30, 10, 2_000)
    comparison = PairedComparison.from_correct(candidate, champion)

    assert (2_000, 30, 10) == (
        comparison.images,
        comparison.candidate_only_correct,
        comparison.champion_only_correct,
    )
    assert candidate.mean() - champion.mean() == pytest.approx(comparison.difference)
    assert comparison.ci_low < comparison.difference < comparison.ci_high
    assert comparison == PairedComparison.from_correct(candidate, champion)
    assert "+1.00 points on 2,000 images" in str(comparison)


def test_equal_predictions_have_p_value_1():
    """Without discordant images the difference and its interval are 0, and the p-value is 1."""
    equal = PairedComparison.from_correct(np.ones(50, bool), np.ones(50, bool))
    assert (0.0, 0.0, 0.0, 1.0) == (equal.difference, equal.ci_low, equal.ci_high, equal.p_value)
