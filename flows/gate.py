"""The gate: may a candidate take the champion's place? Decided on measured values alone, with every why."""

import textwrap
from collections.abc import Iterator
from typing import Literal

import numpy as np

from flows.measured import Measured
from flows.results import Check, Verdict
from flows.settings import ReleaseConfig
from model.significance import Comparison, shortfall


def judge(candidate: Measured, champion: Measured | None, config: ReleaseConfig) -> Verdict:
    """The verdict on `candidate`; without a `champion` it only has to clear the floors."""
    checks = tuple(_checks(candidate, champion, config))
    failed = tuple(str(check) for check in checks if not check.passed)
    if champion is None:
        reasons = failed or ("the first release under this name",)
        return Verdict(action="reject" if failed else "promote", reasons=reasons, checks=checks)
    if not _comparable(candidate, champion):
        reasons = failed or ("it cannot be compared with the champion on the reference images",)
        return Verdict(action="reject", reasons=reasons, checks=checks)
    comparisons = {
        name: Comparison.of(evaluation.correct, champion.evaluations[name].correct)
        for name, evaluation in candidate.evaluations.items()
    }
    differing = {
        name: one for name, one in comparisons.items() if one.p_value < config.significance and one.difference
    }
    losses = tuple(f"worse on {name}: {one}" for name, one in differing.items() if one.difference < 0)
    gains = tuple(f"better on {name}: {one}" for name, one in differing.items() if one.difference > 0)
    undecided = tuple(f"{name}: {one}" for name, one in comparisons.items())
    action: Literal["promote", "hold", "reject"] = "hold"
    if failed or losses:
        action, reasons = "reject", failed + losses
    elif gains:
        action, reasons = "promote", gains
    elif config.promote_when == "not_worse" and _not_worse(comparisons, config):
        action, reasons = "promote", tuple(f"not worse on {name}: {one}" for name, one in comparisons.items())
    else:
        reasons = undecided
    return Verdict(action=action, reasons=reasons, checks=checks, comparisons=comparisons)


def _comparable(candidate: Measured, champion: Measured) -> bool:
    return bool(candidate.evaluations) and candidate.classes == champion.classes


def _not_worse(comparisons: dict[str, Comparison], config: ReleaseConfig) -> bool:
    return all(one.low >= -config.accuracy_margin for one in comparisons.values())


def _checks(candidate: Measured, champion: Measured | None, config: ReleaseConfig) -> Iterator[Check]:
    """All guardrails that can be looked at: what needs answers is left out where there can be none."""
    yield Check(
        name="weights",
        passed=candidate.finite,
        candidate="finite numbers" if candidate.finite else "NaN or infinite numbers",
        accepted="finite numbers",
    )
    if champion is not None:
        yield _same("classes", ", ".join(candidate.classes), ", ".join(champion.classes))
        yield _same("image shape", *(" × ".join(map(str, one.shape)) for one in (candidate, champion)))
    if candidate.evaluations:
        yield _floor(candidate, config)
    if champion is not None and _comparable(candidate, champion):
        yield from _recalls(candidate, champion, config)
        yield from _margins(candidate, champion, config)


def _same(name: str, now: str, before: str) -> Check:
    """What clients rely on; the order of the classes as well."""
    shown, usual = (textwrap.shorten(one, 60, placeholder=" …") for one in (now, before))
    return Check(name=name, passed=now == before, candidate=shown, champion=usual, accepted="the same")


def _floor(candidate: Measured, config: ReleaseConfig) -> Check:
    """At least `min_accuracy`, and more than the answer that is always the most frequent class."""
    reference = candidate.evaluations["reference"]
    frequent = float(np.bincount(reference.labels).max() / len(reference))
    return Check(
        name="accuracy",
        passed=reference.accuracy >= config.min_accuracy and reference.accuracy > frequent,
        candidate=f"{reference.accuracy:.2%}",
        accepted=f"{config.min_accuracy:.2%}, more than the {frequent:.1%} of one class",
    )


def _recalls(candidate: Measured, champion: Measured, config: ReleaseConfig) -> Iterator[Check]:
    """No class loses more recall than the margin, unless that may well be chance.

    A class may have 30 images, and one of them is then 3 points: a loss counts where equal classifiers show
    it in fewer than one of 20 judgements, all classes together (Bonferroni's correction). Told are the
    classes that fail, else the one that lost most.
    """
    now, before = candidate.evaluations["reference"], champion.evaluations["reference"]
    checks = {}
    for number, name in enumerate(candidate.classes):
        own = now.labels == number
        if not own.any():
            continue
        kept, had = now.correct[own], before.correct[own]
        loss = float(had.mean() - kept.mean())
        chance = shortfall(int((kept & ~had).sum()), int((had & ~kept).sum())) * len(candidate.classes)
        checks[loss, number] = Check(
            name=f"recall of {name}",
            passed=loss <= config.recall_margin or chance >= config.significance,
            candidate=f"{kept.mean():.1%}",
            champion=f"{had.mean():.1%}",
            accepted=_loss(config.recall_margin),
        )
    worst_first = [checks[key] for key in sorted(checks, reverse=True)]
    yield from [check for check in worst_first if not check.passed] or worst_first[:1]


def _margins(candidate: Measured, champion: Measured, config: ReleaseConfig) -> Iterator[Check]:
    now, before = candidate.evaluations["reference"].ece, champion.evaluations["reference"].ece
    yield Check(
        name="calibration error",
        passed=now - before <= config.calibration_margin,
        candidate=f"{now:.3f}",
        champion=f"{before:.3f}",
        accepted=f"{config.calibration_margin:g} more",
    )
    mean, usual = (
        float(np.mean([right.mean() for right in one.slices.values()])) for one in (candidate, champion)
    )
    yield Check(
        name="accuracy when changed",
        passed=usual - mean <= config.robustness_margin,
        candidate=f"{mean:.1%}",
        champion=f"{usual:.1%}",
        accepted=_loss(config.robustness_margin),
    )
    yield _factor(
        "milliseconds an image", candidate.milliseconds, champion.milliseconds, config.latency_factor
    )
    yield _factor("megabytes", candidate.size / 1e6, champion.size / 1e6, config.size_factor)


def _factor(name: str, now: float, before: float, factor: float) -> Check:
    return Check(
        name=name,
        passed=now <= factor * before,
        candidate=f"{now:.3g}",
        champion=f"{before:.3g}",
        accepted=f"{factor:g} times as much",
    )


def _loss(margin: float) -> str:
    return f"a loss of {100 * margin:g} points"
