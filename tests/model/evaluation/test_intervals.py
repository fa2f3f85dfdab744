"""Tests of the confidence intervals against scipy, their definitions and their coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from relearn.model.evaluation.intervals import (
    mean_interval,
    tango_interval,
    tango_p_value,
    weighted_sum_interval,
    wilson_interval,
)

COUNTS = st.integers(0, 60)


@given(COUNTS, st.integers(1, 10_000))
def test_wilson_interval_agrees_with_scipy(wrong: int, images: int):
    """Also if none or all of the images are correct."""
    correct = max(0, images - wrong)
    expected = stats.binomtest(correct, images).proportion_ci(0.95, "wilson")
    assert pytest.approx((expected.low, expected.high), abs=1e-12) == wilson_interval(correct, images)


@given(COUNTS, COUNTS, st.integers(1, 10_000))
def test_tango_interval_has_a_width(gained: int, lost: int, more: int):
    """It contains the observed difference, is symmetric, and is never a point."""
    images = gained + lost + more
    low, high = tango_interval(gained, lost, images)

    assert -1 <= low <= (gained - lost) / images <= high <= 1
    assert high - low > 1 / images
    assert (-high, -low) == pytest.approx(tango_interval(lost, gained, images))


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 300), st.floats(-0.5, 0.5))
def test_score_uses_the_most_likely_probabilities(gained: int, lost: int, others: int, margin: float):
    """The p-value is that of the deviation, with the variance at the constrained maximum of likelihood."""
    images = gained + lost + others

    def negative_log_likelihood(champion_only: float) -> float:
        probabilities = np.array([champion_only - margin, champion_only, 1 - 2 * champion_only + margin])
        return -float(np.array([gained, lost, others]) @ np.log(np.clip(probabilities, 1e-300, 1)))

    bounds = (max(margin, 0.0), (1 + margin) / 2)
    best = optimize.minimize_scalar(
        negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    deviation = (gained - lost) / images + margin
    expected = stats.norm.cdf(deviation / np.sqrt((2 * best - margin - margin**2) / images))

    assert expected == pytest.approx(tango_p_value(gained, lost, images, margin), abs=1e-3)


@pytest.mark.parametrize("images", [20, 60, 300])
@pytest.mark.parametrize("probabilities", [(0.1, 0.05), (0.02, 0.0), (0.3, 0.3)])
def test_tango_interval_covers_the_difference(images: int, probabilities: tuple[float, float]):
    """The true difference lies in 95 % of the intervals, or nearly."""
    gained, lost = probabilities
    draws = np.random.default_rng(1).multinomial(images, (gained, lost, 1 - gained - lost), 2_000)
    counts, positions = np.unique(draws[:, :2], axis=0, return_inverse=True)
    intervals = np.array([tango_interval(int(a), int(b), images) for a, b in counts])[positions]

    covers = (intervals[:, 0] <= gained - lost) & (gained - lost <= intervals[:, 1])

    assert covers.mean() >= 0.935


def test_mean_interval_agrees_with_scipy():
    """It is Student's; a single value has no bounds."""
    values = np.random.default_rng(0).normal(0.1, 1, 40)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (expected.low, expected.high) == pytest.approx(mean_interval(values))
    assert (-np.inf, np.inf) == mean_interval(values[:1])


def test_weighted_sum_of_one_estimate_has_its_interval():
    """A single class keeps its interval; that of k equal classes is narrower by √k."""
    one, low, high = np.array([0.1]), np.array([0.0]), np.array([0.3])
    assert (0.0, 0.3) == pytest.approx(weighted_sum_interval(np.ones(1), one, low, high))
    quarter = weighted_sum_interval(np.full(4, 0.25), *(np.repeat(end, 4) for end in (one, low, high)))
    assert (0.05, 0.2) == pytest.approx(quarter)
