"""Promotion gate: decides on a candidate by the scores of candidate and champion, and gives every reason."""

import textwrap
from collections.abc import Iterator

import numpy as np

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores
from relearn.flows.results import GateDecision, GuardrailResult
from relearn.model.evaluation.significance import PairedComparison, mcnemar
from relearn.serving.releases.ledger import GateOutcome


def evaluate_gate(
    candidate: ClassifierScores, champion: ClassifierScores | None, config: PromotionConfig
) -> GateDecision:
    """Decide on `candidate`; without a `champion` only the absolute guardrails apply."""
    checks = tuple(_run_guardrails(candidate, champion, config))
    failed = tuple(str(check) for check in checks if not check.passed)
    if champion is None:
        reasons = failed or ("the first release of this model",)
        return GateDecision(action="reject" if failed else "promote", reasons=reasons, checks=checks)
    if not _are_comparable(candidate, champion):
        reasons = failed or ("it cannot be compared with the champion on the reference images",)
        return GateDecision(action="reject", reasons=reasons, checks=checks)
    comparisons = {
        name: PairedComparison.from_correct(evaluation.correct, champion.evaluations[name].correct)
        for name, evaluation in candidate.evaluations.items()
    }
    # Bonferroni correction for the number of image sets.
    level = config.significance / max(len(comparisons), 1)
    significant = {name: comparison for name, comparison in comparisons.items() if comparison.p_value < level}
    losses = tuple(
        f"worse on {name}: {comparison}"
        for name, comparison in significant.items()
        if comparison.difference < 0
    )
    gains = tuple(
        f"better on {name}: {comparison}"
        for name, comparison in significant.items()
        if comparison.difference > 0
    )
    inconclusive = tuple(f"{name}: {comparison}" for name, comparison in comparisons.items())
    action: GateOutcome = "hold"
    if failed or losses:
        action, reasons = "reject", failed + losses
    elif gains:
        action, reasons = "promote", gains
    elif (
        config.promotion_rule == "non_inferior" and comparisons["reference"].ci_low >= -config.accuracy_margin
    ):
        action, reasons = "promote", (f"not worse on reference: {comparisons['reference']}",)
    else:
        reasons = inconclusive
    return GateDecision(action=action, reasons=reasons, checks=checks, comparisons=comparisons)


def _are_comparable(candidate: ClassifierScores, champion: ClassifierScores) -> bool:
    return bool(candidate.evaluations) and candidate.classes == champion.classes


def _run_guardrails(
    candidate: ClassifierScores, champion: ClassifierScores | None, config: PromotionConfig
) -> Iterator[GuardrailResult]:
    """Run all guardrails that apply; those that need predictions are skipped without evaluations."""
    yield GuardrailResult(
        name="weights",
        passed=candidate.weights_are_finite,
        candidate="finite numbers" if candidate.weights_are_finite else "NaN or infinite numbers",
        accepted="finite numbers",
    )
    if champion is not None:
        yield _check_equal("classes", ", ".join(candidate.classes), ", ".join(champion.classes))
        yield _check_equal(
            "image shape", *(" × ".join(map(str, scores.shape)) for scores in (candidate, champion))
        )
    if candidate.evaluations:
        yield _check_min_accuracy(candidate, config)
    if champion is not None and _are_comparable(candidate, champion):
        yield from _check_recalls(candidate, champion, config)
        yield from _check_robustness(candidate, champion, config)
        yield _check_calibration(candidate, champion, config)
        candidate_ms, champion_ms = candidate.latency_ms, champion.latency_ms
        yield _check_ratio("milliseconds an image", candidate_ms, champion_ms, config.latency_factor)
        yield _check_ratio(
            "megabytes", candidate.weight_bytes / 1e6, champion.weight_bytes / 1e6, config.size_factor
        )


def _check_equal(name: str, candidate: str, champion: str) -> GuardrailResult:
    """Check that a property that clients rely on is unchanged, such as the order of the classes."""
    candidate_text, champion_text = (
        textwrap.shorten(text, 60, placeholder=" …") for text in (candidate, champion)
    )
    return GuardrailResult(
        name=name,
        passed=candidate == champion,
        candidate=candidate_text,
        champion=champion_text,
        accepted="the same",
    )


def _check_min_accuracy(candidate: ClassifierScores, config: PromotionConfig) -> GuardrailResult:
    """Check that the accuracy is at least `min_accuracy` and above the majority class baseline."""
    reference = candidate.evaluations["reference"]
    majority_fraction = float(np.bincount(reference.labels).max() / len(reference))
    return GuardrailResult(
        name="accuracy",
        passed=reference.accuracy >= config.min_accuracy and reference.accuracy > majority_fraction,
        candidate=f"{reference.accuracy:.2%}",
        accepted=f"{config.min_accuracy:.2%} or more, above {majority_fraction:.1%} (largest class)",
    )


def _check_recalls(
    candidate: ClassifierScores, champion: ClassifierScores, config: PromotionConfig
) -> Iterator[GuardrailResult]:
    """Check that no class loses more recall than the margin."""
    candidate_evaluation, champion_evaluation = (
        candidate.evaluations["reference"],
        champion.evaluations["reference"],
    )
    class_masks = {name: candidate_evaluation.labels == index for index, name in enumerate(candidate.classes)}
    pairs = {
        f"recall of {name}": (candidate_evaluation.correct[mask], champion_evaluation.correct[mask])
        for name, mask in class_masks.items()
    }
    return _check_losses(pairs, config.recall_margin, config.significance)


def _check_robustness(
    candidate: ClassifierScores, champion: ClassifierScores, config: PromotionConfig
) -> Iterator[GuardrailResult]:
    """Check that under no corruption the accuracy drops by more than the margin.

    Corruptions under which the champion is below 50 % are skipped, since it is correct by chance there: on
    inverted digits an almost untrained network had 10 %, a good one 0 %.
    """
    pairs = {
        f"accuracy when {name}": (candidate.correctness_by_corruption[name], champion_correct)
        for name, champion_correct in champion.correctness_by_corruption.items()
        if champion_correct.mean() > 0.5
    }
    return _check_losses(pairs, config.robustness_margin, config.significance)


def _check_losses(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], margin: float, significance: float
) -> Iterator[GuardrailResult]:
    """Check the loss of accuracy in groups of images, from `pairs` of (candidate, champion) bool (n,).

    In a group of 30 images one image is 3 points, so a loss above the margin fails only if it is significant
    (one-sided McNemar test, Bonferroni-corrected for the number of groups). Yields the groups that fail,
    else the one with the largest loss.
    """
    checks = {}
    for name, (candidate_correct, champion_correct) in pairs.items():
        if not len(champion_correct):
            continue
        loss = float(champion_correct.mean() - candidate_correct.mean())
        p_value = mcnemar(
            int((candidate_correct & ~champion_correct).sum()),
            int((champion_correct & ~candidate_correct).sum()),
            "less",
        ) * len(pairs)
        checks[loss, name] = GuardrailResult(
            name=name,
            passed=loss <= margin or p_value >= significance,
            candidate=f"{candidate_correct.mean():.1%}",
            champion=f"{champion_correct.mean():.1%}",
            accepted=f"a loss of {100 * margin:g} points or less, or one that is not significant",
        )
    worst_first = [checks[key] for key in sorted(checks, reverse=True)]
    yield from [check for check in worst_first if not check.passed] or worst_first[:1]


def _check_calibration(
    candidate: ClassifierScores, champion: ClassifierScores, config: PromotionConfig
) -> GuardrailResult:
    candidate_ece, champion_ece = (
        candidate.evaluations["reference"].ece,
        champion.evaluations["reference"].ece,
    )
    return GuardrailResult(
        name="calibration error",
        passed=candidate_ece - champion_ece <= config.calibration_margin,
        candidate=f"{candidate_ece:.3f}",
        champion=f"{champion_ece:.3f}",
        accepted=f"{config.calibration_margin:g} more",
    )


def _check_ratio(name: str, candidate: float, champion: float, max_ratio: float) -> GuardrailResult:
    return GuardrailResult(
        name=name,
        passed=candidate <= max_ratio * champion,
        candidate=f"{candidate:.3g}",
        champion=f"{champion:.3g}",
        accepted=f"{max_ratio:g} times as much",
    )
