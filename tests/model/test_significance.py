"""Promises of the paired statistics, checked against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relearn.model.evaluation.significance import PairedComparison, bootstrap_ci, mcnemar

COUNTS = st.integers(0, 60)


def pairs(gained: int, lost: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """What candidate and champion have right, with these counts of images that tell them apart."""
    candidate, champion = np.ones(images, bool), np.ones(images, bool)
    champion[:gained] = False
    candidate[gained : gained + lost] = False
    return candidate, champion


@given(COUNTS, COUNTS)
def test_mcnemar_is_a_fair_coin(gained: int, lost: int):
    """The exact test sums the probabilities of all outcomes at most as likely as the one seen."""
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
def test_a_shortfall_is_the_lower_tail(gained: int, lost: int):
    """How likely a fair coin shows so few heads."""
    assert pytest.approx(stats.binom.cdf(gained, gained + lost, 0.5)) == mcnemar(gained, lost, "less")


@pytest.mark.parametrize(("gained", "lost", "images"), [(30, 12, 1_000), (5, 5, 360), (80, 10, 10_000)])
def test_the_interval_is_that_of_scipys_bootstrap(gained: int, lost: int, images: int):
    """Drawing the counts is drawing the images: both intervals agree within what 10,000 draws allow."""
    candidate, champion = pairs(gained, lost, images)
    expected = stats.bootstrap(
        ((candidate.astype(float) - champion),),
        np.mean,
        n_resamples=10_000,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(1),
    ).confidence_interval

    low, high = bootstrap_ci(gained, lost, images)
    spread = expected.high - expected.low
    assert abs(low - expected.low) < 0.06 * spread
    assert abs(high - expected.high) < 0.06 * spread


def test_a_comparison_counts_the_pairs():
    """Gained and lost images, the difference of the accuracies, and the same numbers each time."""
    candidate, champion = pairs(30, 10, 2_000)
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


def test_equal_answers_are_no_difference():
    """Nothing to tell apart is nothing to promote."""
    same = PairedComparison.from_correct(np.ones(50, bool), np.ones(50, bool))
    assert (0.0, 0.0, 0.0, 1.0) == (same.difference, same.ci_low, same.ci_high, same.p_value)
