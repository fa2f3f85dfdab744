"""Power of the drift tests: the smallest effect size that they find with so many images."""

import math
from dataclasses import dataclass

import numpy as np

POWER = 0.9  # probability with which a detectable effect is found
# Half of the images differ. Tests that may miss this cannot report that there is no drift.
LARGE_EFFECT = 0.5


@dataclass(frozen=True)
class Limits:
    """Conditions under which one test finds drift: p-value below `significance`, and the least effect size.

    The methods return the smallest effect size, 0..1, that fulfills both with a probability of `POWER`.
    """

    significance: float
    min_effect_size: float

    def detectable_ks_effect(self, reference_images: int, window_images: int) -> float:
        """Return the detectable effect of the Kolmogorov–Smirnov test."""
        from scipy import special

        scale = math.sqrt(1 / reference_images + 1 / window_images)
        critical_distance = float(special.kolmogi(self.significance)) * scale
        return min(1.0, max(critical_distance, self.min_effect_size) + _chance(scale))

    def detectable_chi_squared_effect(self, counts: np.ndarray) -> float:
        """Return the detectable effect of Pearson's test of two rows of counts, int (2, groups).

        A total variation distance d gives a noncentrality of at least 4 · d² / (1/n + 1/m), the least if all
        groups change by the same factor. A single group counts as two: a rare class that becomes frequent
        is no longer merged.
        """
        from scipy import special

        degrees_of_freedom, scale = max(counts.shape[1] - 1, 1), math.sqrt((1 / counts.sum(1)).sum())
        critical_value = special.chdtri(degrees_of_freedom, self.significance)
        noncentrality = special.chndtrinc(critical_value, degrees_of_freedom, 1 - POWER)
        effect = math.sqrt(noncentrality) * scale / 2
        return min(1.0, max(effect, self.min_effect_size + _chance(scale)))


def _chance(scale: float) -> float:
    """Return what a distance may lack by chance, with a probability of 1 - `POWER`.

    At the point of the largest change the distance is a difference of two fractions, whose standard deviation
    is at most 0.5 · `scale`, with `scale` = √(1/n + 1/m).
    """
    from scipy import special

    return float(special.ndtri(POWER)) * scale / 2
