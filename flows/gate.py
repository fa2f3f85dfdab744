"""The gate: may a candidate take the champion's place? Decided on measured values alone, with every why."""

import textwrap
from collections.abc import Iterator

import numpy as np

from relearn.flows.measured import Measured
from relearn.flows.results import Check, Verdict
from relearn.flows.settings import ReleaseConfig
from relearn.model.significance import Comparison, mcnemar
from relearn.serving.ledger import Outcome


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
    # Equal classifiers may differ on one set or the other: Bonferroni's correction.
    level = config.significance / max(len(comparisons), 1)
    differing = {name: one for name, one in comparisons.items() if one.p_value < level}
    losses = tuple(f"worse on {name}: {one}" for name, one in differing.items() if one.difference < 0)
    gains = tuple(f"better on {name}: {one}" for name, one in differing.items() if one.difference > 0)
    undecided = tuple(f"{name}: {one}" for name, one in comparisons.items())
    action: Outcome = "hold"
    if failed or losses:
        action, reasons = "reject", failed + losses
    elif gains:
        action, reasons = "promote", gains
    elif config.promote_when == "not_worse" and comparisons["reference"].low >= -config.accuracy_margin:
        action, reasons = "promote", (f"not worse on reference: {comparisons['reference']}",)
    else:
        reasons = undecided
    return Verdict(action=action, reasons=reasons, checks=checks, comparisons=comparisons)


def _comparable(candidate: Measured, champion: Measured) -> bool:
    return bool(candidate.evaluations) and candidate.classes == champion.classes


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
        yield from _slices(candidate, champion, config)
        yield _calibration(candidate, champion, config)
        now, before = candidate.milliseconds, champion.milliseconds
        yield _factor("milliseconds an image", now, before, config.latency_factor)
        yield _factor("megabytes", candidate.size / 1e6, champion.size / 1e6, config.size_factor)


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
    """No class loses more recall than the margin."""
    now, before = candidate.evaluations["reference"], champion.evaluations["reference"]
    classes = {name: now.labels == number for number, name in enumerate(candidate.classes)}
    pairs = {f"recall of {name}": (now.correct[own], before.correct[own]) for name, own in classes.items()}
    return _losses(pairs, config.recall_margin, config.significance)


def _slices(candidate: Measured, champion: Measured, config: ReleaseConfig) -> Iterator[Check]:
    """By no kind of change of the images more is lost than the margin, where there was something to lose.

    What the champion itself has mostly wrong, it has right by luck: of inverted digits a network that had
    learned next to nothing had 10 %, a good one none.
    """
    pairs = {
        f"right when {name}": (candidate.slices[name], had)
        for name, had in champion.slices.items()
        if had.mean() > 0.5
    }
    return _losses(pairs, config.robustness_margin, config.significance)


def _losses(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], margin: float, significance: float
) -> Iterator[Check]:
    """What candidate and champion have right of some groups of images: losses above the margin fail.

    A group may have 30 images, and one of them is then 3 points: a loss counts where equal classifiers show
    it in fewer than `significance` of the judgements, all groups together (Bonferroni's correction). Told
    are the groups that fail, else the one that lost most.
    """
    checks = {}
    for name, (kept, had) in pairs.items():
        if not len(had):
            continue
        loss = float(had.mean() - kept.mean())
        chance = mcnemar(int((kept & ~had).sum()), int((had & ~kept).sum()), "less") * len(pairs)
        checks[loss, name] = Check(
            name=name,
            passed=loss <= margin or chance >= significance,
            candidate=f"{kept.mean():.1%}",
            champion=f"{had.mean():.1%}",
            accepted=f"a loss of {100 * margin:g} points, or of chance",
        )
    worst_first = [checks[key] for key in sorted(checks, reverse=True)]
    yield from [check for check in worst_first if not check.passed] or worst_first[:1]


def _calibration(candidate: Measured, champion: Measured, config: ReleaseConfig) -> Check:
    now, before = candidate.evaluations["reference"].ece, champion.evaluations["reference"].ece
    return Check(
        name="calibration error",
        passed=now - before <= config.calibration_margin,
        candidate=f"{now:.3f}",
        champion=f"{before:.3f}",
        accepted=f"{config.calibration_margin:g} more",
    )


def _factor(name: str, now: float, before: float, factor: float) -> Check:
    return Check(
        name=name,
        passed=now <= factor * before,
        candidate=f"{now:.3g}",
        champion=f"{before:.3g}",
        accepted=f"{factor:g} times as much",
    )
