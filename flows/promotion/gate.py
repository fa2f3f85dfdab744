"""Promotion gate: decides on a candidate by the scores of candidate and champion, and gives every reason."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores
from relearn.flows.promotion.class_change import ClassChange
from relearn.flows.promotion.guardrails import check_harm, check_requirements, check_skill, find_weak_spots
from relearn.flows.results import GateDecision, GuardrailResult
from relearn.model.evaluation.accuracy import Accuracy
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.evaluation.power import describe_disputed_classes, describe_power, find_visible_difference
from relearn.model.evaluation.significance import spend_level


@dataclass(frozen=True, eq=False)
class Baseline:
    """Version from which losses add up: the last one that was shown to be better than the one before it.

    `scores` are None if it is the champion. `margin` is the loss since then that was accepted, 0 for none
    yet. `tested` candidates were compared since then, and `failed` of them were not promoted.
    """

    scores: ReferenceScores | None = None
    margin: float = 0.0
    tested: int = 0
    failed: int = 0


def evaluate_gate(
    candidate: ClassifierScores,
    champion: ClassifierScores | None,
    config: PromotionConfig,
    baseline: Baseline = Baseline(),
    has_more_data: bool = False,
    new_class_recalls: Mapping[str, Accuracy] = MappingProxyType({}),
) -> GateDecision:
    """Decide on `candidate`: PROMOTE, HOLD or REJECT.

    `has_more_data` is True if it has learned from all of the champion's data and more. Where the classes
    differ, the scores are those on images of the classes that both know, and `new_class_recalls` are those of
    the candidate for the new ones.
    """
    checks = list(check_requirements(candidate, config))
    if champion is None:
        return _decide_first_release(candidate, checks, config)
    change = ClassChange.between(candidate.classes, champion.classes, config)
    checks += [_check_order(change), *change.check(new_class_recalls, config)]
    if candidate.reference is None or champion.reference is None:
        reason = "it cannot be compared with the champion on the reference images"
        return GateDecision(action="reject", reasons=_list_failures(checks) or (reason,), checks=checks)
    checks += check_harm(candidate.reference, champion.reference, config)
    comparison = with_baseline = _compare(candidate.reference, champion.reference, config)
    if baseline.scores:
        with_baseline = _compare(candidate.reference, baseline.scores, config)
    decide = partial(GateDecision, checks=checks, comparison=comparison)
    if failures := _list_failures(checks):
        return decide(action="reject", reasons=failures)
    level = spend_level(config.significance, baseline.failed)
    margin = _choose_margin(with_baseline, baseline, has_more_data, config)
    if comparison.p_better <= level:
        reason = f"better: {comparison}"
    elif margin and with_baseline.compute_lower_bound(level) >= -margin:
        reason = _describe_accepted_loss(with_baseline, margin, baseline, config)
    else:
        disputed = describe_disputed_classes(candidate.reference.evaluation, champion.reference.evaluation)
        return decide(action="hold", reasons=(str(comparison), describe_power(comparison, level), disputed))
    is_baseline = with_baseline.p_better <= spend_level(config.significance, baseline.tested)
    reasons = (reason, *_describe_new_shape(candidate, champion))
    return decide(action="promote", reasons=reasons, margin=0 if is_baseline else margin or baseline.margin)


def _compare(candidate: ReferenceScores, other: ReferenceScores, config: PromotionConfig) -> PairedComparison:
    metric = config.promotion_metric
    return PairedComparison.from_evaluations(candidate.evaluation, other.evaluation, metric)


def _choose_margin(
    comparison: PairedComparison, baseline: Baseline, has_more_data: bool, config: PromotionConfig
) -> float:
    """Return the loss since the baseline that the promotion rule accepts; 0 for none.

    With `more_data` it is the smallest loss that the images can show to a single candidate. The first release
    that accepts it fixes it for all that follow, so that small losses do not add up to more.
    """
    if config.promotion_rule == "non_inferior":
        return config.non_inferiority_margin
    if config.promotion_rule == "better" or not has_more_data:
        return 0.0
    visible = find_visible_difference(comparison, spend_level(config.significance, 0))
    return baseline.margin or max(config.non_inferiority_margin, visible)


def _describe_accepted_loss(
    comparison: PairedComparison, margin: float, baseline: Baseline, config: PromotionConfig
) -> str:
    subject = "it learned from more data and" if config.promotion_rule == "more_data" else "it"
    since = " since the last better version" if baseline.scores else ""
    return f"{subject} loses less than {comparison.format_difference(margin)}{since}: {comparison}"


def _decide_first_release(
    candidate: ClassifierScores, checks: list[GuardrailResult], config: PromotionConfig
) -> GateDecision:
    """Promote a candidate that meets the requirements and has learned something; name its weak spots."""
    if candidate.reference is not None:
        checks.append(check_skill(candidate.reference.evaluation, config.significance))
    if failures := _list_failures(checks):
        return GateDecision(action="reject", reasons=failures, checks=checks)
    weak_spots = find_weak_spots(candidate.reference) if candidate.reference else ()
    reasons = ("the first release of this model", *([f"weak: {', '.join(weak_spots)}"] if weak_spots else []))
    return GateDecision(action="promote", reasons=reasons, checks=checks)


def _check_order(change: ClassChange) -> GuardrailResult:
    """Check that the same classes have the same order, which clients may rely on."""
    names = [
        textwrap.shorten(", ".join(classes), 60, placeholder=" …")
        for classes in (change.candidate, change.champion)
    ]
    return GuardrailResult(
        name="classes",
        passed=not change.is_reordered,
        candidate=names[0],
        champion=names[1],
        accepted="the same order",
    )


def _describe_new_shape(candidate: ClassifierScores, champion: ClassifierScores) -> tuple[str, ...]:
    """Tell that clients which send numbers have to send images of another shape; () if it is the same."""
    if candidate.shape == champion.shape:
        return ()
    now, before = (" × ".join(map(str, scores.shape)) for scores in (candidate, champion))
    return (f"requests with numbers need {now} of them an image instead of {before}; image files may stay",)


def _list_failures(checks: list[GuardrailResult]) -> tuple[str, ...]:
    return tuple(str(check) for check in checks if not check.passed)
