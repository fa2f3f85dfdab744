"""Paired comparison of two classifiers on the same images.

Only discordant images count: those that exactly one of the two predicts correctly. If both classifiers are
equally good, each of these images is a fair coin toss.
"""

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

CONFIDENCE_LEVEL = 0.95
RESAMPLES = 10_000


class PairedComparison(BaseModel):
    """Discordant counts, accuracy difference, its interval and p-value for two classifiers.

    images                    number of images
    candidate_only_correct    images that only the candidate predicts correctly
    champion_only_correct     images that only the champion predicts correctly
    difference                accuracy of the candidate minus that of the champion, -1..1
    ci_low, ci_high           95 % bootstrap interval of `difference`
    p_value                   of McNemar's exact two-sided test, 0..1
    """

    model_config = ConfigDict(frozen=True)

    images: int
    candidate_only_correct: int
    champion_only_correct: int
    difference: float
    ci_low: float
    ci_high: float
    p_value: float

    @classmethod
    def from_correct(cls, candidate: np.ndarray, champion: np.ndarray) -> Self:
        """Compare two masks of correct predictions, bool (n,), in the same order of images."""
        candidate_only, champion_only = int((candidate & ~champion).sum()), int((champion & ~candidate).sum())
        images = len(candidate)
        ci_low, ci_high = bootstrap_ci(candidate_only, champion_only, images)
        return cls(
            images=images,
            candidate_only_correct=candidate_only,
            champion_only_correct=champion_only,
            difference=(candidate_only - champion_only) / images,
            ci_low=ci_low,
            ci_high=ci_high,
            p_value=mcnemar(candidate_only, champion_only),
        )

    def __str__(self) -> str:
        points, low, high = (f"{100 * value:+.2f}" for value in (self.difference, self.ci_low, self.ci_high))
        return f"{points} points on {self.images:,} images (95 % interval {low} to {high})"


def mcnemar(
    candidate_only: int, champion_only: int, alternative: Literal["two-sided", "less"] = "two-sided"
) -> float:
    """Return the p-value of McNemar's exact test (1947).

    `less` is one-sided: the probability that an equally good candidate wins at most `candidate_only` of the
    discordant images.
    """
    from scipy import special

    discordant = candidate_only + champion_only
    if alternative == "less":
        return float(special.bdtr(candidate_only, discordant, 0.5))
    return float(min(1.0, 2 * special.bdtr(min(candidate_only, champion_only), discordant, 0.5)))


def wilson_interval(correct: ArrayLike, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval of an accuracy, 0..1, element by element.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    from scipy import special

    n, accuracy = np.asarray(images), np.divide(correct, images)
    z = special.ndtri((1 + CONFIDENCE_LEVEL) / 2)
    center = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * np.sqrt(accuracy * (1 - accuracy) / n + (z / (2 * n)) ** 2)
    return np.maximum(0, center - half_width), np.minimum(1, center + half_width)


def bootstrap_ci(candidate_only: int, champion_only: int, images: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the accuracy difference.

    Resampling the images with replacement is one multinomial draw of the three counts: candidate only,
    champion only, concordant. Efron, "Bootstrap methods", Ann. Statist. 7 (1979).
    """
    fractions = np.array([candidate_only, champion_only, images - candidate_only - champion_only]) / images
    resampled_counts = np.random.default_rng(0).multinomial(images, fractions, RESAMPLES)
    tail = 50 * (1 - CONFIDENCE_LEVEL)
    low, high = np.percentile((resampled_counts[:, 0] - resampled_counts[:, 1]) / images, [tail, 100 - tail])
    return float(low), float(high)
