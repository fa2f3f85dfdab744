"""Images that belong together, such as photos of one animal, are not independent: a group counts as one.

Without groups each image counts for itself. Groups are numbers, int (n,), one for each image.
"""

import numpy as np

from relearn.model.evaluation.intervals import CONFIDENCE_LEVEL, critical_value, mean_interval, tango_interval
from relearn.model.evaluation.significance import mcnemar, sign_flip_test

Groups = np.ndarray | None


def number_groups(keys: np.ndarray | None) -> Groups:
    """Number the groups of images by their keys, (n,), or hashes, (n, 2); None if each stands alone."""
    if keys is None:
        return None
    unique, numbers = np.unique(keys if keys.ndim == 1 else keys[:, 0], return_inverse=True)
    return numbers if len(unique) < len(keys) else None


def sum_by_group(values: np.ndarray, groups: Groups) -> np.ndarray:
    """Sum the values, float or int (n,), of each group; the order is that of the numbers."""
    if groups is None:
        return values
    numbers = np.unique(groups, return_inverse=True)[1]
    return np.bincount(numbers, weights=values)


def compute_design_effect(values: np.ndarray, groups: Groups) -> float:
    """Return how many images carry as much evidence as one that stands alone, 1 or more.

    It is the variance of the mean of `values` with groups, divided by that without. For equal values it is
    that of groups whose images are all alike. Kish, "Survey Sampling" (1965). The variance of few groups is
    itself uncertain, so intervals get as wide as Student's: Korn and Graubard, "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data", Survey Methodology
    24 (1998).
    """
    if groups is None or not len(values):
        return 1.0
    from scipy import special

    deviations = values - values.mean()
    if not deviations.any():
        deviations = np.ones(len(values))
    sums = sum_by_group(deviations, groups)
    if len(sums) == 1:
        return float(len(values))
    quantile = special.stdtrit(len(sums) - 1, (1 + CONFIDENCE_LEVEL) / 2)
    few_groups = len(sums) / (len(sums) - 1) * (quantile / critical_value()) ** 2
    effect = few_groups * float(sums @ sums) / float(deviations @ deviations)
    return float(min(max(1.0, effect), len(values)))


def gain_p_value(gains: np.ndarray, groups: Groups) -> float:
    """Return the p-value, one-sided: is the sum of `gains` above 0 by chance?

    Of int gains -1, 0 and 1 it is McNemar's exact test, of float gains the sign-flip test. Of groups it is
    the sign-flip test of their sums: between equally good classifiers each group may favor either.
    """
    if groups is None and gains.dtype.kind == "i":
        return mcnemar(int((gains > 0).sum()), int((gains < 0).sum()))
    return sign_flip_test(sum_by_group(gains, groups).astype(float))


def scale_counts(gains: np.ndarray, groups: Groups) -> tuple[float, float, float]:
    """Return wins, losses and images, each divided by the design effect.

    Rao and Scott, "A simple method for the analysis of clustered binary data", Biometrics 48 (1992).
    """
    effect = compute_design_effect(gains, groups)
    counts = (gains > 0).sum(), (gains < 0).sum(), len(gains)
    wins, losses, images = (float(count / effect) for count in counts)
    return wins, losses, images


def gain_interval(gains: np.ndarray, groups: Groups) -> tuple[float, float]:
    """Return the 95 % interval of the mean gain: Tango's for int gains, Student's for float gains."""
    if gains.dtype.kind == "i":
        return tango_interval(*scale_counts(gains, groups))
    sums = sum_by_group(gains, groups)
    low, high = mean_interval(sums)
    return low * len(sums) / len(gains), high * len(sums) / len(gains)
