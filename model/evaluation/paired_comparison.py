"""Comparison of two classifiers on the same images, by a metric."""

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from relearn.model.config import PromotionMetric
from relearn.model.evaluation.groups import Groups, compute_design_effect, gain_interval, gain_p_value
from relearn.model.evaluation.intervals import critical_value, tango_interval, weighted_sum_interval

if TYPE_CHECKING:
    from relearn.model.evaluation.metrics import Evaluation


class PairedComparison(BaseModel):
    """Difference of two classifiers, its interval, and the p-values of the paired test.

    metric                    what is compared
    images                    number of images
    groups                    number of groups of images, None if each image stands alone
    design_effect             images that carry as much evidence as one that stands alone, 1 or more
    candidate_only_correct    images that only the candidate predicts correctly
    champion_only_correct     images that only the champion predicts correctly
    difference                accuracy of the candidate minus that of the champion, -1..1, or log loss of the
                              champion minus that of the candidate in nats: positive is better
    ci_low, ci_high           95 % interval of `difference`
    p_better, p_worse         one-sided p-values, 0..1: small if the candidate is better, or worse
    """

    model_config = ConfigDict(frozen=True)

    metric: PromotionMetric = "accuracy"
    images: int
    groups: int | None = None
    design_effect: float = 1.0
    candidate_only_correct: int
    champion_only_correct: int
    difference: float
    ci_low: float
    ci_high: float
    p_better: float
    p_worse: float

    @classmethod
    def from_evaluations(
        cls, candidate: "Evaluation", champion: "Evaluation", metric: PromotionMetric = "accuracy"
    ) -> Self:
        """Compare two evaluations of the same images, in the same order.

        accuracy: McNemar's exact test, Tango's interval. balanced_accuracy, the mean over the classes of
        the fraction of correct images: sign-flip test, and the interval from those of the classes. log_loss,
        the mean of -ln p(label): sign-flip test, Student's interval. With groups of images all tests are
        sign-flip tests of the groups, and Tango's interval has as many images as the evidence is worth.
        """
        gains, groups = count_gains(candidate.correct, champion.correct), candidate.groups
        difference, ci_low, ci_high, p_better, p_worse = {
            "accuracy": _compare_accuracy,
            "balanced_accuracy": _compare_balanced_accuracy,
            "log_loss": _compare_log_loss,
        }[metric](candidate, champion)
        return cls(
            metric=metric,
            images=len(candidate),
            groups=None if groups is None else len(np.unique(groups)),
            design_effect=compute_design_effect(gains, groups),
            candidate_only_correct=int((gains > 0).sum()),
            champion_only_correct=int((gains < 0).sum()),
            difference=difference,
            ci_low=ci_low,
            ci_high=ci_high,
            p_better=p_better,
            p_worse=p_worse,
        )

    @property
    def p_value(self) -> float:
        """Two-sided p-value, 0..1."""
        return min(1.0, 2 * min(self.p_better, self.p_worse))

    @property
    def discordant_fraction(self) -> float:
        """Fraction of images that exactly one of the two predicts correctly, 0..1; one more counts than seen.

        No discordant image among n does not say that there is none among other images.
        """
        return min(1.0, (self.candidate_only_correct + self.champion_only_correct + 1) / self.images)

    @property
    def effective_images(self) -> int:
        """Number of images that stand alone and carry as much evidence."""
        return max(1, round(self.images / self.design_effect))

    @property
    def standard_error(self) -> float:
        """Standard error of `difference`, from the width of its interval."""
        return (self.ci_high - self.ci_low) / 2 / critical_value()

    def compute_lower_bound(self, level: float) -> float:
        """Return the lower confidence bound of `difference` at the one-sided `level`.

        Tango's for accuracy, else from the standard error. The candidate is not inferior by a margin if the
        bound lies above minus the margin.
        """
        if self.metric != "accuracy":
            return self.difference - self.standard_error * critical_value(1 - 2 * level)
        counts = (self.candidate_only_correct, self.champion_only_correct, self.images)
        wins, losses, images = (count / self.design_effect for count in counts)
        return tango_interval(wins, losses, images, 1 - 2 * level)[0]

    def __str__(self) -> str:
        difference, low, high = (
            self.format_difference(value, "+") for value in (self.difference, self.ci_low, self.ci_high)
        )
        name = "" if self.metric == "accuracy" else f" of {self.metric.replace('_', ' ')}"
        interval = f"{low.split()[0]} to {high.split()[0]}"
        images = f"{self.images:,} images" + (f" of {self.groups:,} groups" if self.groups else "")
        return f"{difference}{name} on {images} (95 % interval {interval})"

    def format_difference(self, difference: float, sign: Literal["", "+"] = "") -> str:
        """Format a difference in points of accuracy, or in nats."""
        if self.metric == "log_loss":
            return f"{difference:{sign}.3f} nats"
        return f"{100 * difference:{sign}.2f} points"


_Result = tuple[float, float, float, float, float]


def _compare_accuracy(candidate: "Evaluation", champion: "Evaluation") -> _Result:
    gains = count_gains(candidate.correct, champion.correct)
    return _compare(gains, candidate.groups)


def _compare_balanced_accuracy(candidate: "Evaluation", champion: "Evaluation") -> _Result:
    gains, labels = count_gains(candidate.correct, champion.correct), candidate.labels
    groups = candidate.groups
    support = np.bincount(labels, minlength=len(candidate.classes))
    masks = [labels == label for label in np.flatnonzero(support)]
    # Their mean is the mean of the classes.
    result = _compare(gains * len(gains) / (len(masks) * support[labels]), groups)
    if groups is not None and gains.any():  # classes with the same groups are not independent
        return result
    # Tango's interval of each class is never of width 0.
    differences = np.array([gains[mask].mean() for mask in masks])
    lows, highs = zip(
        *(gain_interval(gains[mask], None if groups is None else groups[mask]) for mask in masks), strict=True
    )
    weights = np.full(len(masks), 1 / len(masks))
    low, high = weighted_sum_interval(weights, differences, np.array(lows), np.array(highs))
    return float(differences.mean()), low, high, *result[3:]


def _compare_log_loss(candidate: "Evaluation", champion: "Evaluation") -> _Result:
    return _compare(champion.image_losses - candidate.image_losses, candidate.groups)


def _compare(gains: np.ndarray, groups: Groups) -> _Result:
    p_values = gain_p_value(gains, groups), gain_p_value(-gains, groups)
    return float(gains.mean()), *gain_interval(gains, groups), *p_values


def count_gains(candidate: np.ndarray, champion: np.ndarray) -> np.ndarray:
    """Return 1 for images, bool (n,), that only the first predicts correctly, -1 for the second, else 0."""
    gains: np.ndarray = candidate.astype(int) - champion
    return gains
