"""Significance tests for two classifiers on the same images, and for one of them.

Of two equally good classifiers each may be the better one on any image with the same probability. All paired
tests follow from that: no distribution is assumed.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

FLIPS = 10_000  # the least p-value is 1e-4, unless the bound of Hoeffding is smaller
MAX_FLIPPED_IMAGES = 300  # with more, the sum of the flipped gains is nearly normal: p-values agree to 0.01


def mcnemar(candidate_only: int, champion_only: int) -> float:
    """Return the p-value of McNemar's exact test (1947), one-sided: is the candidate better?

    The arguments are the numbers of images that one of the two alone predicts correctly. The result is the
    probability that an equally good candidate wins `candidate_only` or more of them.
    """
    from scipy import special

    return float(special.bdtrc(candidate_only - 1, candidate_only + champion_only, 0.5))


def sign_flip_test(gains: np.ndarray) -> float:
    """Return the p-value of the paired permutation test, one-sided: is the sum of `gains` above 0 by chance?

    `gains`, float (n,), are differences between two classifiers, one for each image; each keeps or changes
    its sign with the same probability. With gains of -1, 0 and 1 this is McNemar's test. Pitman,
    "Significance tests which may be applied to samples from any populations", JRSS Suppl. 4 (1937). Where few
    flips reach the sum, Hoeffding's bound exp(-sum² / 2 Σ gain²) may be smaller; JASA 58 (1963).
    """
    gains = gains[gains != 0]
    if not len(gains):
        return 1.0
    gains = gains / np.abs(gains).max()  # the squares of tiny ones would be 0
    total = gains.sum()
    if len(gains) > MAX_FLIPPED_IMAGES:
        from scipy import special

        return float(special.ndtr(-total / np.sqrt((gains**2).sum())))
    positive_sums = _draw_flips()[:, : len(gains)] @ gains.astype(np.float32)
    # Rounding must not decide whether a sum of the same gains counts as equal.
    extreme = 2 * positive_sums - total >= total - 1e-6 * np.abs(gains).sum()
    bound = float(np.exp(-(max(0.0, total) ** 2) / 2 / (gains**2).sum()))
    return min(bound, float((1 + extreme.sum()) / (1 + FLIPS)))


@cache
def _draw_flips() -> np.ndarray:
    """Draw the signs of all flips, 0 or 1, float32 (FLIPS, MAX_FLIPPED_IMAGES): 12 MB."""
    random_bytes = np.random.default_rng(0).integers(0, 256, (FLIPS, -(-MAX_FLIPPED_IMAGES // 8)), np.uint8)
    return np.unpackbits(random_bytes, axis=1, count=MAX_FLIPPED_IMAGES).astype(np.float32)


def binomial_test(correct: int, images: int, chance: float) -> float:
    """Return the probability that guesses, each right with probability `chance`, get `correct` or more."""
    from scipy import special

    return float(special.bdtrc(correct - 1, images, chance))


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing, in the same order. Holm, Scand. J. Statist. 6 (1979).

    Controls the family-wise error rate under any dependence between the tests.
    """
    values = np.array(p_values, float)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return [float(value) for value in corrected]


def spend_level(significance: float, earlier_tests: int) -> float:
    """Return the level of the next test after `earlier_tests`, of which any may decide.

    The levels α/2, α/6, α/12, …, α/(k (k + 1)) of all tests, however many follow, add up to `significance`.
    The first of them, one-sided, agrees with the two-sided interval of 1 - α.
    """
    return significance / ((earlier_tests + 1) * (earlier_tests + 2))
