"""Promotion gate: decides on a candidate by the scores of candidate and champion, and gives every reason."""

import textwrap

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores
from relearn.flows.promotion.guardrails import check_harm, check_requirements, check_skill, find_weak_spots
from relearn.flows.results import GateDecision, GuardrailResult
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.evaluation.power import describe_power, find_visible_difference
from relearn.model.evaluation.significance import spend_level


def evaluate_gate(
    candidate: ClassifierScores,
    champion: ClassifierScores | None,
    config: PromotionConfig,
    earlier_candidates: int = 0,
    baseline: ReferenceScores | None = None,
) -> GateDecision:
    """Decide on `candidate`: PROMOTE, HOLD or REJECT.

    `earlier_candidates` is the number of candidates that this champion was tested against before: the more,
    the stricter the test. `baseline` are the scores of the version from which `more_data` measures losses;
    None if the candidate has not learned from all of the champion's data and more.
    """
    checks = list(check_requirements(candidate, config))
    if champion is None:
        return _decide_first_release(candidate, checks, config)
    checks += _check_interface(candidate, champion)
    if candidate.reference is None or champion.reference is None:
        reason = "it cannot be compared with the champion on the reference images"
        return GateDecision(action="reject", reasons=_list_failures(checks) or (reason,), checks=checks)
    comparison = PairedComparison.from_evaluations(
        candidate.reference.evaluation, champion.reference.evaluation, config.promotion_metric
    )
    checks += check_harm(candidate.reference, champion.reference, config)
    level = spend_level(config.significance, earlier_candidates)
    if failures := _list_failures(checks):
        return GateDecision(action="reject", reasons=failures, checks=checks, comparison=comparison)
    decision = GateDecision(action="promote", reasons=(), checks=checks, comparison=comparison)
    if comparison.p_better <= level:
        return decision.model_copy(update={"reasons": (f"better: {comparison}",)})
    if config.promotion_rule == "non_inferior" and comparison.ci_low >= -config.non_inferiority_margin:
        return decision.model_copy(update={"reasons": (f"not worse: {comparison}",)})
    if config.promotion_rule == "more_data" and baseline:
        reason = _compare_with_baseline(candidate.reference, baseline, config)
        if reason:
            return decision.model_copy(update={"reasons": (reason,), "keeps_baseline": True})
    reasons = (str(comparison), describe_power(comparison, level))
    return decision.model_copy(update={"action": "hold", "reasons": reasons})


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


def _compare_with_baseline(
    candidate: ReferenceScores, baseline: ReferenceScores, config: PromotionConfig
) -> str:
    """Return why `more_data` promotes a candidate; "" if it does not.

    The margin is the smallest loss that the images can show to a single candidate. It is measured from the
    last version that was promoted as better, so that small losses do not add up over many releases.
    """
    comparison = PairedComparison.from_evaluations(
        candidate.evaluation, baseline.evaluation, config.promotion_metric
    )
    margin = max(
        config.non_inferiority_margin,
        find_visible_difference(comparison, spend_level(config.significance, 0)),
    )
    if comparison.ci_low < -margin:
        return ""
    limit = comparison.format_difference(margin)
    return f"it learned from more data and loses less than {limit}: {comparison}"


def _check_interface(candidate: ClassifierScores, champion: ClassifierScores) -> list[GuardrailResult]:
    """Check what clients rely on: the classes in their order, and the image shape."""
    values = {
        "classes": (", ".join(candidate.classes), ", ".join(champion.classes)),
        "image shape": tuple(" × ".join(map(str, scores.shape)) for scores in (candidate, champion)),
    }
    return [
        GuardrailResult(
            name=name,
            passed=of_candidate == of_champion,
            candidate=textwrap.shorten(of_candidate, 60, placeholder=" …"),
            champion=textwrap.shorten(of_champion, 60, placeholder=" …"),
            accepted="the same",
        )
        for name, (of_candidate, of_champion) in values.items()
    ]


def _list_failures(checks: list[GuardrailResult]) -> tuple[str, ...]:
    return tuple(str(check) for check in checks if not check.passed)
