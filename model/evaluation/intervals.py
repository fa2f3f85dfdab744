"""95 % confidence intervals of accuracies, and of differences between two classifiers on the same images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE_LEVEL = 0.95
_BISECTIONS = 50


def wilson_interval(correct: ArrayLike, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of an accuracy, 0..1, element by element.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    n, accuracy, z = np.asarray(images), np.divide(correct, images), critical_value()
    center = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * np.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2)
    return np.maximum(0, center - half_width), np.minimum(1, center + half_width)


def tango_interval(
    candidate_only: float, champion_only: float, images: float, confidence: float = CONFIDENCE_LEVEL
) -> tuple[float, float]:
    """Return the score interval of the accuracy difference, candidate minus champion, -1..1.

    It holds the differences that the score test does not reject, and has no width of 0 even if both are
    correct on the same images. Tango, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design", Stat. Med. 17 (1998).
    """
    observed, z = (candidate_only - champion_only) / images, critical_value(confidence)

    def is_rejected(difference: float) -> bool:
        return abs(_score(candidate_only, champion_only, images, difference)) > z

    return _bisect(observed, -1.0, is_rejected), _bisect(observed, 1.0, is_rejected)


def tango_p_value(candidate_only: float, champion_only: float, images: float, margin: float) -> float:
    """Return the p-value of the score test, one-sided: does the candidate lose more than `margin` (0..1)?"""
    from scipy import special

    return float(special.ndtr(_score(candidate_only, champion_only, images, -margin)))


def _score(candidate_only: float, champion_only: float, images: float, difference: float) -> float:
    """Return the standardized deviation from `difference`, with Tango's restricted maximum likelihood."""
    linear = -candidate_only - champion_only + (2 * images - candidate_only + champion_only) * difference
    constant = -champion_only * difference * (1 - difference)
    champion_only_probability = (np.sqrt(linear**2 - 8 * images * constant) - linear) / (4 * images)
    variance = images * (2 * champion_only_probability + difference * (1 - difference))
    deviation = candidate_only - champion_only - images * difference
    if variance <= 0:
        return float(np.copysign(np.inf, deviation)) if deviation else 0.0
    return float(deviation / np.sqrt(variance))


def _bisect(inside: float, outside: float, is_rejected: Callable[[float], bool]) -> float:
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if is_rejected(middle) else (middle, outside)
    return inside


def weighted_sum_interval(
    weights: np.ndarray, estimates: np.ndarray, lows: np.ndarray, highs: np.ndarray
) -> tuple[float, float]:
    """Return the interval of Σ weight · estimate from the intervals of independent estimates, float (k,).

    Zou and Donner, "Construction of confidence limits about effect measures", Stat. Med. 27 (2008); the
    weights are positive.
    """
    center = float(weights @ estimates)
    below, above = weights * (estimates - lows), weights * (highs - estimates)
    return center - float(np.sqrt(below @ below)), center + float(np.sqrt(above @ above))


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's interval of the mean of `values`, float (n,); n = 1 has no bounds."""
    from scipy import special

    if len(values) < 2:
        return -np.inf, np.inf
    quantile = special.stdtrit(len(values) - 1, (1 + CONFIDENCE_LEVEL) / 2)
    half_width = float(quantile * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half_width, float(values.mean()) + half_width


def critical_value(confidence: float = CONFIDENCE_LEVEL) -> float:
    """Return how many standard errors the ends of a normal interval are from its center."""
    from scipy import special

    return float(special.ndtri((1 + confidence) / 2))
