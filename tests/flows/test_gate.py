"""Promises of the gate: from measured values to PROMOTE, HOLD or REJECT, with the cause in words."""

from dataclasses import replace

import numpy as np
import pytest

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores
from relearn.flows.promotion.gate import evaluate_gate
from relearn.model.evaluation.metrics import Evaluation

CLASSES = tuple("0123456789")
IMAGES = 10_000
LABELS = np.arange(IMAGES) % 10
CONFIG = PromotionConfig()


def answers(wrong: np.ndarray, confidence: float = 0.98) -> np.ndarray:
    """Probabilities that name the label, but for the images in `wrong`, where they name the next class."""
    probabilities = np.full((IMAGES, 10), (1 - confidence) / 9, np.float32)
    named = LABELS.copy()
    named[wrong] = (named[wrong] + 1) % 10
    probabilities[np.arange(IMAGES), named] = confidence
    return probabilities


def measured(wrong: np.ndarray, confidence: float = 0.98, **changes: object) -> ClassifierScores:
    """A classifier with these mistakes, equal to all others in everything else."""
    evaluation = Evaluation(answers(wrong, confidence), LABELS, CLASSES)
    slices = {name: np.arange(2_000) < 1_800 for name in ("shifted", "noisy", "thinner")}
    whole = ClassifierScores(CLASSES, (1, 28, 28), True, 1_000_000, 0.2, {"reference": evaluation}, slices)
    return replace(whole, **changes)


def some(count: int, start: int = 0) -> np.ndarray:
    """`count` images of all classes."""
    return np.arange(start, start + count)


CHAMPION = measured(some(200))


def test_a_gain_beyond_chance_is_promoted():
    """60 images gained and 10 lost of 10,000 are no accident."""
    verdict = evaluate_gate(measured(np.r_[some(140, 60), some(10, 5_000)]), CHAMPION, CONFIG)

    assert "promote" == verdict.action
    assert "better on reference: +0.50 points on 10,000 images" in verdict.reasons[0]
    assert (60, 10) == (
        verdict.comparisons["reference"].candidate_only_correct,
        verdict.comparisons["reference"].champion_only_correct,
    )


def test_what_may_be_chance_is_held():
    """12 gained and 9 lost tell nothing: the champion stays, and the interval says how little is known."""
    verdict = evaluate_gate(measured(np.r_[some(188, 12), some(9, 5_000)]), CHAMPION, CONFIG)

    assert "hold" == verdict.action
    assert "+0.03 points" in verdict.reasons[0]
    assert "(95 % interval -0.06 to +0.12)" in verdict.reasons[0]


def test_a_loss_beyond_chance_is_rejected():
    """Significantly worse is no matter of opinion."""
    verdict = evaluate_gate(measured(np.r_[some(200), some(50, 5_000)]), CHAMPION, CONFIG)
    assert ("reject", True) == (verdict.action, "worse on reference: -0.50 points" in verdict.reasons[0])


def test_a_gain_on_one_set_does_not_excuse_a_loss_on_another():
    """Better on recent images and worse on the reference is a rejection; better on one alone is enough."""
    better, same = Evaluation(answers(some(100)), LABELS, CLASSES), CHAMPION.evaluations["reference"]
    worse = Evaluation(answers(some(300)), LABELS, CLASSES)
    champion = replace(CHAMPION, evaluations={"reference": same, "recent": same})

    for reference, expected in ((same, "promote"), (worse, "reject")):
        candidate = replace(CHAMPION, evaluations={"reference": reference, "recent": better})
        assert expected == evaluate_gate(candidate, champion, CONFIG).action


def few(count: int, right: int) -> Evaluation:
    """Answers to `count` recent images, the first `right` of them right."""
    labels = np.arange(count) % 10
    return Evaluation(
        np.eye(10, dtype=np.float32)[(labels + (np.arange(count) >= right)) % 10], labels, CLASSES
    )


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_recent_images_decide_nothing(count: int):
    """Three images show nothing beyond chance, and keep nobody who is not worse from going on."""
    reference = CHAMPION.evaluations["reference"]
    right, wrong = (
        replace(CHAMPION, evaluations={"reference": reference, "recent": few(count, number)})
        for number in (count, 0)
    )
    for candidate, champion in ((right, wrong), (wrong, right)):
        assert "hold" == evaluate_gate(candidate, champion, CONFIG).action
        assert (
            "promote"
            == evaluate_gate(candidate, champion, PromotionConfig(promotion_rule="non_inferior")).action
        )


def test_with_two_sets_each_has_to_tell_more():
    """Equal classifiers differ by chance on one or the other: p below 0.05 of one is then not enough."""
    reference, gained = CHAMPION.evaluations["reference"], np.r_[some(185, 15), some(5, 5_000)]
    alone = evaluate_gate(measured(gained), CHAMPION, CONFIG)
    sets = {"reference": measured(gained).evaluations["reference"], "recent": few(50, 40)}
    champion = replace(CHAMPION, evaluations={"reference": reference, "recent": few(50, 40)})

    assert 0.025 < alone.comparisons["reference"].p_value < 0.05
    assert "promote" == alone.action
    assert "hold" == evaluate_gate(replace(CHAMPION, evaluations=sets), champion, CONFIG).action


@pytest.mark.parametrize(("lost", "action"), [(10, "promote"), (150, "hold"), (300, "reject")])
def test_not_worse_is_enough_where_that_is_asked(lost: int, action: str):
    """With `non_inferior` a candidate that cannot have lost more than the margin is promoted."""
    config = PromotionConfig(promotion_rule="non_inferior", accuracy_margin=0.003)
    candidate = measured(np.r_[some(200 - lost + 5, lost - 5), some(lost, 5_000)])
    assert action == evaluate_gate(candidate, CHAMPION, config).action


def test_the_first_release_needs_only_the_floors():
    """Without a champion there is nothing to compare with."""
    assert "promote" == evaluate_gate(CHAMPION, None, CONFIG).action
    verdict = evaluate_gate(CHAMPION, None, PromotionConfig(min_accuracy=0.99))
    assert ("reject", True) == (
        verdict.action,
        "accuracy: got 98.00%, accepted: 99.00%" in verdict.reasons[0],
    )


def test_who_always_says_the_same_is_not_released():
    """The most frequent class alone is no classifier, however frequent it is."""
    labels = np.where(np.arange(1_000) < 900, 0, 1)
    constant = Evaluation(np.tile(np.float32([0.9, 0.1]), (1_000, 1)), labels, ("a", "b"))
    verdict = evaluate_gate(measured(some(0), evaluations={"reference": constant}), None, CONFIG)
    assert ("reject", True) == (verdict.action, "more than the 90.0% of one class" in verdict.reasons[0])


def test_weights_that_are_not_finite_are_rejected():
    """NaN is named, and nothing else is asked."""
    verdict = evaluate_gate(
        measured(some(0), weights_are_finite=False, evaluations={}, correct_by_corruption={}),
        CHAMPION,
        CONFIG,
    )
    assert "reject" == verdict.action
    assert ("weights: got NaN or infinite numbers, accepted: finite numbers",) == verdict.reasons


def test_other_classes_are_rejected():
    """Clients rely on names and order: the same ten in another order are others."""
    verdict = evaluate_gate(
        measured(some(0), classes=CLASSES[::-1], evaluations={}, correct_by_corruption={}), CHAMPION, CONFIG
    )
    assert ("reject", True) == (verdict.action, "classes: got 9, 8, 7" in verdict.reasons[0])


def test_another_image_shape_is_rejected():
    verdict = evaluate_gate(
        measured(some(0), shape=(3, 28, 28), evaluations={}, correct_by_corruption={}), CHAMPION, CONFIG
    )
    told = "image shape: got 3 × 28 × 28, the champion has 1 × 28 × 28, accepted: the same"
    assert ("reject", (told,)) == (verdict.action, verdict.reasons)


def test_what_cannot_be_compared_is_rejected():
    """A reference that neither can read is no reason to take a champion's place."""
    unread = measured(some(0), evaluations={}, correct_by_corruption={})
    assert "reject" == evaluate_gate(unread, unread, CONFIG).action


def test_a_class_that_is_given_up_is_named():
    """Better in all, and blind for the 7: rejected, by the name of the class."""
    sevens = np.flatnonzero(LABELS == 7)[:60]
    verdict = evaluate_gate(measured(sevens), CHAMPION, CONFIG)

    assert "promote" == evaluate_gate(measured(some(60)), CHAMPION, CONFIG).action
    assert "reject" == verdict.action
    told = "recall of 7: got 94.0%, the champion has 98.0%, accepted: a loss of 2 points, or of chance"
    assert told in verdict.reasons


def test_a_small_class_may_lose_an_image_by_chance():
    """Of 30 images one is 3 points: no reason yet. Half of them is."""
    few = np.flatnonzero(LABELS[:300] == 7)
    small = Evaluation(answers(some(0))[:300], LABELS[:300], CLASSES)
    champion = measured(some(0), evaluations={"reference": small})
    for lost, action in ((1, "hold"), (15, "reject")):
        candidate = Evaluation(answers(few[:lost])[:300], LABELS[:300], CLASSES)
        verdict = evaluate_gate(measured(some(0), evaluations={"reference": candidate}), champion, CONFIG)
        assert action == verdict.action


def test_worse_calibration_is_rejected():
    """As right as before, and far too sure or unsure of it."""
    verdict = evaluate_gate(measured(some(100), confidence=0.6), CHAMPION, CONFIG)
    assert ("reject", True) == (verdict.action, "calibration error: got 0.390" in verdict.reasons[0])


def test_brittleness_is_rejected():
    """Better on the reference, and lost as soon as an image is changed a little in one way."""
    slices = CHAMPION.correct_by_corruption | {"noisy": np.arange(2_000) < 1_600}
    verdict = evaluate_gate(measured(some(100), correct_by_corruption=slices), CHAMPION, CONFIG)
    told = "right when noisy: got 80.0%, the champion has 90.0%, accepted: a loss of 5 points, or of chance"
    assert ("reject", (told,)) == (verdict.action, verdict.reasons)


def test_what_was_never_read_cannot_be_lost():
    """A champion that has few inverted images right, and so mostly by luck, sets no bar."""
    champion = measured(some(200), correct_by_corruption={"inverted": np.arange(2_000) < 200})
    candidate = measured(some(100), correct_by_corruption={"inverted": np.arange(2_000) < 0})
    assert "promote" == evaluate_gate(candidate, champion, CONFIG).action


def test_some_changed_images_may_be_lost_by_chance():
    """Of 20 images two are 10 points, and no reason."""
    champion = measured(some(200), correct_by_corruption={"noisy": np.arange(20) < 18})
    candidate = measured(some(100), correct_by_corruption={"noisy": np.arange(20) < 16})
    assert "promote" == evaluate_gate(candidate, champion, CONFIG).action


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"latency_ms": 2.1}, "milliseconds an image: got 2.1"),
        ({"weight_bytes": 20_000_000}, "megabytes: got 20"),
    ],
)
def test_slow_and_heavy_is_rejected(change: dict[str, object], told: str):
    """More than the factor that is accepted, however right."""
    verdict = evaluate_gate(measured(some(100), **change), CHAMPION, CONFIG)
    assert ("reject", True) == (verdict.action, told in verdict.reasons[0])


def test_every_guardrail_tells_its_numbers():
    """A verdict is read by people: what was looked at, both sides, and what would be accepted."""
    checks = evaluate_gate(measured(some(150)), CHAMPION, CONFIG).checks
    assert [
        *("weights", "classes", "image shape", "accuracy", "recall of 9", "right when thinner"),
        *("calibration error", "milliseconds an image", "megabytes"),
    ] == [check.name for check in checks]
    assert all(check.candidate and check.accepted for check in checks)
    assert all(check.champion for check in checks if check.name not in ("weights", "accuracy"))
