"""Which of two classifiers is better: statistics of their answers to the same images.

Only the images that one has right and the other wrong tell them apart. Where both are equally good, each
such image is as likely to speak for the one as for the other: a fair coin.
"""

from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

CONFIDENCE_LEVEL = 0.95  # of the interval
RESAMPLES = 10_000


class PairedComparison(BaseModel):
    """Two classifiers on the same `images`: the counts of the pairs, and what they tell.

    `gained` images has only the candidate right, `lost` only the champion; `difference` is that of the
    accuracies, candidate minus champion (-1..1), `low` and `high` its 95 % bootstrap interval, `p_value`
    (0..1) how likely equal classifiers differ at least that much.
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
        """From what each has right, bool (n,), in the same order of images."""
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
    """p-value of the exact test of McNemar (1947): is the coin fair?

    `less` is one-sided: how likely an equal candidate loses as many of the differing images, or more.
    """
    from scipy import stats

    if not candidate_only + champion_only:
        return 1.0
    return float(
        stats.binomtest(candidate_only, candidate_only + champion_only, alternative=alternative).pvalue
    )


def bootstrap_ci(candidate_only: int, champion_only: int, images: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the difference of accuracies.

    To draw the images anew, with replacement, is to draw how many gained, lost or equal ones come: one
    multinomial draw instead of `images` single ones. Efron, "Bootstrap methods", Ann. Statist. 7 (1979).
    """
    fractions = np.array([candidate_only, champion_only, images - candidate_only - champion_only]) / images
    resampled_counts = np.random.default_rng(0).multinomial(images, fractions, RESAMPLES)
    tail = 50 * (1 - CONFIDENCE_LEVEL)
    low, high = np.percentile((resampled_counts[:, 0] - resampled_counts[:, 1]) / images, [tail, 100 - tail])
    return float(low), float(high)
