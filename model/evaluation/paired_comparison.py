"""Comparison of two classifiers on the same images, by a metric."""

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from relearn.model.config import PromotionMetric
from relearn.model.evaluation.intervals import mean_interval, tango_interval, weighted_sum_interval
from relearn.model.evaluation.significance import mcnemar, sign_flip_test

if TYPE_CHECKING:
    from relearn.model.evaluation.metrics import Evaluation


class PairedComparison(BaseModel):
    """Difference of two classifiers, its interval, and the p-values of the paired test.

    metric                    what is compared
    images                    number of images
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
        the mean of -ln p(label): sign-flip test, Student's interval.
        """
        wins, losses = count_discordant(candidate.correct, champion.correct)
        difference, ci_low, ci_high, p_better, p_worse = {
            "accuracy": _compare_accuracy,
            "balanced_accuracy": _compare_balanced_accuracy,
            "log_loss": _compare_log_loss,
        }[metric](candidate, champion)
        return cls(
            metric=metric,
            images=len(candidate),
            candidate_only_correct=wins,
            champion_only_correct=losses,
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

    def __str__(self) -> str:
        difference, low, high = (
            self.format_difference(value, "+") for value in (self.difference, self.ci_low, self.ci_high)
        )
        name = "" if self.metric == "accuracy" else f" of {self.metric.replace('_', ' ')}"
        interval = f"{low.split()[0]} to {high.split()[0]}"
        return f"{difference}{name} on {self.images:,} images (95 % interval {interval})"

    def format_difference(self, difference: float, sign: Literal["", "+"] = "") -> str:
        """Format a difference in points of accuracy, or in nats."""
        if self.metric == "log_loss":
            return f"{difference:{sign}.3f} nats"
        return f"{100 * difference:{sign}.2f} points"


_Result = tuple[float, float, float, float, float]


def _compare_accuracy(candidate: "Evaluation", champion: "Evaluation") -> _Result:
    wins, losses = count_discordant(candidate.correct, champion.correct)
    low, high = tango_interval(wins, losses, len(candidate))
    return (wins - losses) / len(candidate), low, high, mcnemar(wins, losses), mcnemar(losses, wins)


def _compare_balanced_accuracy(candidate: "Evaluation", champion: "Evaluation") -> _Result:
    support = np.bincount(candidate.labels, minlength=len(candidate.classes))
    classes = np.flatnonzero(support)
    counts = [
        (*count_discordant(candidate.correct[mask], champion.correct[mask]), int(mask.sum()))
        for mask in (candidate.labels == label for label in classes)
    ]
    lows, highs = zip(*(tango_interval(*count) for count in counts), strict=True)
    differences = np.array([(wins - losses) / images for wins, losses, images in counts])
    weights = np.full(len(classes), 1 / len(classes))
    low, high = weighted_sum_interval(weights, differences, np.array(lows), np.array(highs))
    gains = (candidate.correct.astype(float) - champion.correct) / support[candidate.labels]
    return float(differences.mean()), low, high, sign_flip_test(gains), sign_flip_test(-gains)


def _compare_log_loss(candidate: "Evaluation", champion: "Evaluation") -> _Result:
    gains = champion.image_losses - candidate.image_losses
    return float(gains.mean()), *mean_interval(gains), sign_flip_test(gains), sign_flip_test(-gains)


def count_discordant(candidate: np.ndarray, champion: np.ndarray) -> tuple[int, int]:
    """Return how many images, bool (n,), only the first predicts correctly, and only the second."""
    return int((candidate & ~champion).sum()), int((champion & ~candidate).sum())
