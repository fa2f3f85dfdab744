"""Guardrails of the gate: what a candidate must be by itself, and evidence that it does harm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores
from relearn.flows.results import GuardrailResult
from relearn.model.evaluation.groups import (
    Groups,
    compute_design_effect,
    gain_interval,
    gain_p_value,
    scale_counts,
)
from relearn.model.evaluation.intervals import tango_p_value
from relearn.model.evaluation.metrics import Evaluation
from relearn.model.evaluation.robustness import choose_images
from relearn.model.evaluation.significance import binomial_test, holm_correction

# Below this the champion is right by chance: on inverted digits an almost untrained network was right for
# 10 % of the images, a good one for none.
MIN_CHAMPION_ACCURACY = 0.5


def check_requirements(candidate: ClassifierScores, config: PromotionConfig) -> Iterator[GuardrailResult]:
    """Yield the guardrails that need no champion: finite weights, minimum accuracy, budgets."""
    yield GuardrailResult(
        name="weights",
        passed=candidate.weights_are_finite,
        candidate="finite numbers" if candidate.weights_are_finite else "NaN or infinite numbers",
        accepted="finite numbers",
    )
    if candidate.reference is None:
        return
    if config.min_accuracy:
        accuracy = candidate.reference.evaluation.accuracy
        yield GuardrailResult(
            name="minimum accuracy",
            passed=accuracy >= config.min_accuracy,
            candidate=f"{accuracy:.2%}",
            accepted=f"{config.min_accuracy:.2%} or more",
        )
    budgets = (
        ("latency", candidate.latency_ms, config.max_latency_ms, "ms an image"),
        ("size", candidate.weight_bytes / 1e6, config.max_megabytes, "MB"),
    )
    for name, value, budget, unit in budgets:
        if budget is not None:
            yield GuardrailResult(
                name=name,
                passed=value <= budget,
                candidate=f"{value:.3g} {unit}",
                accepted=f"{budget:g} {unit} or less",
            )


def check_skill(evaluation: Evaluation, significance: float) -> GuardrailResult:
    """Check that a first release is better than guesses of the largest class (binomial test)."""
    effect = compute_design_effect(evaluation.correct.astype(float), evaluation.groups)
    images, correct = (int(count / effect) for count in (len(evaluation), evaluation.correct.sum()))
    chance = float(np.bincount(evaluation.labels).max() / len(evaluation))
    needed = next((k for k in range(images + 1) if binomial_test(k, images, chance) <= significance), None)
    return GuardrailResult(
        name="better than guessing",
        passed=needed is not None and correct >= needed,
        candidate=f"{correct:,} of {images:,} images correct",
        accepted=f"more test images: {images:,} show nothing"
        if needed is None
        else f"{needed:,} or more, which guesses of the largest class seldom reach",
    )


@dataclass(frozen=True, eq=False)
class Harm:
    """Evidence that a candidate loses more than `margin` in one respect.

    `candidate` and `champion` have what each image costs, (n,): bool, whether it is wrong, or float, its
    weighted error or its log loss. `margin` is in the unit of their mean, a fraction or nats; `groups` are
    those of the images.
    """

    name: str
    candidate: np.ndarray
    champion: np.ndarray
    margin: float
    groups: Groups = None
    unit: Literal["points", "nats"] = "points"

    @property
    def losses(self) -> np.ndarray:
        """Loss of the candidate on each image: int if errors are counted, else float."""
        dtype = int if self.champion.dtype == bool else float
        losses: np.ndarray = self.candidate.astype(dtype) - self.champion
        return losses

    def compute_p_value(self) -> float:
        """Compute the p-value: is the loss above the margin by chance?

        Of errors it is the larger of McNemar's exact test, is there a loss, and Tango's test, is it above the
        margin: the second alone is inexact for few images.
        """
        if self.losses.dtype.kind != "i":
            return gain_p_value(self.losses - self.margin, self.groups)
        wins, losses, images = scale_counts(-self.losses, self.groups)
        return max(gain_p_value(self.losses, self.groups), tango_p_value(wins, losses, images, self.margin))

    def to_result(self, passed: bool) -> GuardrailResult:
        """Return the values, and the loss with its 95 % interval."""
        interval = gain_interval(self.losses, self.groups)
        means, scale = (float(self.candidate.mean()), float(self.champion.mean())), 1
        values = [f"{mean:.3f}" for mean in means]
        if self.unit == "points":
            values, scale = [f"{1 - mean:.1%}" for mean in means], 100
        low, high = (f"{scale * end:.2f}" for end in interval)
        return GuardrailResult(
            name=self.name,
            passed=passed,
            candidate=values[0],
            champion=values[1],
            loss=f"{scale * (means[0] - means[1]):.2f} {self.unit} ({low} to {high})",
            accepted=f"up to {scale * self.margin:g} {self.unit}, or a loss that chance explains",
        )


def check_harm(
    candidate: ReferenceScores,
    champion: ReferenceScores,
    config: PromotionConfig,
) -> Iterator[GuardrailResult]:
    """Yield the guardrails that compare with the champion.

    A guardrail fails if the loss exceeds its margin by more than chance explains. The p-values of all are
    corrected together (Holm): an equally good candidate fails in `significance` of the cases at most, with
    any number of images, classes and corruptions. Yields those that fail, else the one nearest to it.
    """
    harms = list(_list_harms(candidate, champion, config))
    p_values = holm_correction([harm.compute_p_value() for harm in harms])
    failed = [
        harm.to_result(passed=False)
        for harm, p_value in zip(harms, p_values, strict=True)
        if p_value <= config.significance
    ]
    yield from failed or [harms[int(np.argmin(p_values))].to_result(passed=True)]


def _list_harms(
    candidate: ReferenceScores,
    champion: ReferenceScores,
    config: PromotionConfig,
) -> Iterator[Harm]:
    of_candidate, of_champion, metric = candidate.evaluation, champion.evaluation, config.promotion_metric
    errors, groups = (~of_candidate.correct, ~of_champion.correct), of_champion.groups
    if metric == "accuracy":
        yield Harm("accuracy", *errors, 0.0, groups)
    elif metric == "balanced_accuracy":
        support = np.bincount(of_champion.labels, minlength=len(of_champion.classes))
        weights = len(of_champion) / np.count_nonzero(support) / support[of_champion.labels]
        yield Harm("balanced accuracy", errors[0] * weights, errors[1] * weights, 0.0, groups)
    for label, name in enumerate(of_champion.classes):
        if (mask := of_champion.labels == label).any():
            own = None if groups is None else groups[mask]
            yield Harm(f"recall of {name}", errors[0][mask], errors[1][mask], config.recall_margin, own)
    for name, champion_correct in champion.correctness_by_corruption.items():
        candidate_correct = candidate.correctness_by_corruption.get(name)  # the styles may differ
        if candidate_correct is not None and champion_correct.mean() > MIN_CHAMPION_ACCURACY:
            chosen = None if groups is None else groups[choose_images(len(groups))]
            margin = config.robustness_margin
            yield Harm(f"accuracy when {name}", ~candidate_correct, ~champion_correct, margin, chosen)
    margin = 0.0 if metric == "log_loss" else config.log_loss_margin
    yield Harm("log loss", of_candidate.image_losses, of_champion.image_losses, margin, groups, "nats")


def find_weak_spots(scores: ReferenceScores) -> Sequence[str]:
    """Return the corruptions under which more images are wrong than right, each with the accuracy."""
    accuracies = {name: float(correct.mean()) for name, correct in scores.correctness_by_corruption.items()}
    return [f"{accuracy:.0%} when {name}" for name, accuracy in accuracies.items() if accuracy < 0.5]
