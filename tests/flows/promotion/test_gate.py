"""The gate decides PROMOTE, HOLD or REJECT on scores, with a reason."""

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


def predict(wrong: np.ndarray, confidence: float = 0.98) -> np.ndarray:
    """Return probabilities, highest for the label; for the images in `wrong` for the next class."""
    probabilities = np.full((IMAGES, 10), (1 - confidence) / 9, np.float32)
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    probabilities[np.arange(IMAGES), predicted] = confidence
    return probabilities


def make_scores(wrong: np.ndarray, confidence: float = 0.98, **changes: object) -> ClassifierScores:
    """Return scores with errors on the images in `wrong`, and otherwise always the same."""
    evaluation = Evaluation(predict(wrong, confidence), LABELS, CLASSES)
    correct = {name: np.arange(2_000) < 1_800 for name in ("shifted", "noisy", "thinner")}
    scores = ClassifierScores(CLASSES, (1, 28, 28), True, 1_000_000, 0.2, {"reference": evaluation}, correct)
    return replace(scores, **changes)


def image_range(count: int, start: int = 0) -> np.ndarray:
    """Return the indices of `count` images of all classes."""
    return np.arange(start, start + count)


CHAMPION = make_scores(image_range(200))


def test_significantly_better_candidate_is_promoted():
    """Of 10,000 images 60 are gained and 10 lost."""
    decision = evaluate_gate(
        make_scores(np.r_[image_range(140, 60), image_range(10, 5_000)]), CHAMPION, CONFIG
    )

    assert "promote" == decision.action
    assert "better on reference: +0.50 points on 10,000 images" in decision.reasons[0]
    assert (60, 10) == (
        decision.comparisons["reference"].candidate_only_correct,
        decision.comparisons["reference"].champion_only_correct,
    )


def test_insignificant_difference_is_held():
    """With 12 images gained and 9 lost the champion stays, and the interval is the reason."""
    decision = evaluate_gate(
        make_scores(np.r_[image_range(188, 12), image_range(9, 5_000)]), CHAMPION, CONFIG
    )

    assert "hold" == decision.action
    assert "+0.03 points" in decision.reasons[0]
    assert "(95 % interval -0.06 to +0.12)" in decision.reasons[0]


def test_significantly_worse_candidate_is_rejected():
    """Of 10,000 images 50 are lost."""
    decision = evaluate_gate(make_scores(np.r_[image_range(200), image_range(50, 5_000)]), CHAMPION, CONFIG)
    assert ("reject", True) == (decision.action, "worse on reference: -0.50 points" in decision.reasons[0])


def test_gain_on_one_image_set_does_not_excuse_loss_on_another():
    """Better on recent images and worse on the reference is rejected; better on one of them is promoted."""
    better, same = Evaluation(predict(image_range(100)), LABELS, CLASSES), CHAMPION.evaluations["reference"]
    worse = Evaluation(predict(image_range(300)), LABELS, CLASSES)
    champion = replace(CHAMPION, evaluations={"reference": same, "recent": same})

    for reference, expected in ((same, "promote"), (worse, "reject")):
        candidate = replace(CHAMPION, evaluations={"reference": reference, "recent": better})
        assert expected == evaluate_gate(candidate, champion, CONFIG).action


def evaluate_recent(count: int, correct: int) -> Evaluation:
    """Return an evaluation on `count` recent images, of which the first `correct` are correct."""
    labels = np.arange(count) % 10
    return Evaluation(
        np.eye(10, dtype=np.float32)[(labels + (np.arange(count) >= correct)) % 10], labels, CLASSES
    )


@pytest.mark.parametrize("count", [1, 3])
def test_few_recent_images_decide_nothing(count: int):
    """Three images cannot be significant, and do not stop a non-inferior candidate."""
    reference = CHAMPION.evaluations["reference"]
    all_correct, all_wrong = (
        replace(CHAMPION, evaluations={"reference": reference, "recent": evaluate_recent(count, correct)})
        for correct in (count, 0)
    )
    for candidate, champion in ((all_correct, all_wrong), (all_wrong, all_correct)):
        assert "hold" == evaluate_gate(candidate, champion, CONFIG).action
        assert (
            "promote"
            == evaluate_gate(candidate, champion, PromotionConfig(promotion_rule="non_inferior")).action
        )


def test_significance_is_corrected_for_two_image_sets():
    """With two sets p below 0.05 on one of them is not enough."""
    reference, gained = CHAMPION.evaluations["reference"], np.r_[image_range(185, 15), image_range(5, 5_000)]
    alone = evaluate_gate(make_scores(gained), CHAMPION, CONFIG)
    sets = {"reference": make_scores(gained).evaluations["reference"], "recent": evaluate_recent(50, 40)}
    champion = replace(CHAMPION, evaluations={"reference": reference, "recent": evaluate_recent(50, 40)})

    assert 0.025 < alone.comparisons["reference"].p_value < 0.05
    assert "promote" == alone.action
    assert "hold" == evaluate_gate(replace(CHAMPION, evaluations=sets), champion, CONFIG).action


@pytest.mark.parametrize(("lost", "action"), [(10, "promote"), (150, "hold"), (300, "reject")])
def test_non_inferior_candidate_is_promoted_by_that_rule(lost: int, action: str):
    """With `non_inferior` the lower end of the interval has to lie within the margin."""
    config = PromotionConfig(promotion_rule="non_inferior", accuracy_margin=0.003)
    candidate = make_scores(np.r_[image_range(200 - lost + 5, lost - 5), image_range(lost, 5_000)])
    assert action == evaluate_gate(candidate, CHAMPION, config).action


def test_first_release_needs_only_the_absolute_guardrails():
    """Without a champion, minimum accuracy and finite weights are enough."""
    assert "promote" == evaluate_gate(CHAMPION, None, CONFIG).action
    decision = evaluate_gate(CHAMPION, None, PromotionConfig(min_accuracy=0.99))
    assert ("reject", True) == (
        decision.action,
        "accuracy: got 98.00%, accepted: 99.00%" in decision.reasons[0],
    )


def test_constant_classifier_is_rejected():
    """An accuracy of the majority class baseline is not enough, however high it is."""
    labels = np.where(np.arange(1_000) < 900, 0, 1)
    constant = Evaluation(np.tile(np.float32([0.9, 0.1]), (1_000, 1)), labels, ("a", "b"))
    decision = evaluate_gate(make_scores(image_range(0), evaluations={"reference": constant}), None, CONFIG)
    assert ("reject", True) == (decision.action, "above 90.0% (largest class)" in decision.reasons[0])


def test_weights_that_are_not_finite_are_rejected():
    """They are the only reason."""
    decision = evaluate_gate(
        make_scores(image_range(0), weights_are_finite=False, evaluations={}, correctness_by_corruption={}),
        CHAMPION,
        CONFIG,
    )
    assert "reject" == decision.action
    assert ("weights: got NaN or infinite numbers, accepted: finite numbers",) == decision.reasons


def test_other_classes_are_rejected():
    """Clients rely on the order too: the same ten classes in another order are rejected."""
    decision = evaluate_gate(
        make_scores(image_range(0), classes=CLASSES[::-1], evaluations={}, correctness_by_corruption={}),
        CHAMPION,
        CONFIG,
    )
    assert ("reject", True) == (decision.action, "classes: got 9, 8, 7" in decision.reasons[0])


def test_another_image_shape_is_rejected():
    decision = evaluate_gate(
        make_scores(image_range(0), shape=(3, 28, 28), evaluations={}, correctness_by_corruption={}),
        CHAMPION,
        CONFIG,
    )
    reason = "image shape: got 3 × 28 × 28, the champion has 1 × 28 × 28, accepted: the same"
    assert ("reject", (reason,)) == (decision.action, decision.reasons)


def test_candidate_without_comparison_is_rejected():
    """If neither can be evaluated on the reference set, the champion stays."""
    unevaluated = make_scores(image_range(0), evaluations={}, correctness_by_corruption={})
    assert "reject" == evaluate_gate(unevaluated, unevaluated, CONFIG).action


def test_loss_of_recall_in_one_class_is_rejected_by_name():
    """A candidate that is better overall and worse on the 7 is rejected."""
    sevens = np.flatnonzero(LABELS == 7)[:60]
    decision = evaluate_gate(make_scores(sevens), CHAMPION, CONFIG)

    assert "promote" == evaluate_gate(make_scores(image_range(60)), CHAMPION, CONFIG).action
    assert "reject" == decision.action
    reason = (
        "recall of 7: got 94.0%, the champion has 98.0%, "
        "accepted: a loss of 2 points or less, or one that is not significant"
    )
    assert reason in decision.reasons


def test_insignificant_loss_in_a_small_class_is_accepted():
    """Of 30 images one is 3 points and accepted; half of them is rejected."""
    sevens = np.flatnonzero(LABELS[:300] == 7)
    small = Evaluation(predict(image_range(0))[:300], LABELS[:300], CLASSES)
    champion = make_scores(image_range(0), evaluations={"reference": small})
    for lost, action in ((1, "hold"), (15, "reject")):
        candidate = Evaluation(predict(sevens[:lost])[:300], LABELS[:300], CLASSES)
        decision = evaluate_gate(
            make_scores(image_range(0), evaluations={"reference": candidate}), champion, CONFIG
        )
        assert action == decision.action


def test_worse_calibration_is_rejected():
    """The accuracy is better, and the confidence 0.6 instead of 0.98."""
    decision = evaluate_gate(make_scores(image_range(100), confidence=0.6), CHAMPION, CONFIG)
    assert ("reject", True) == (decision.action, "calibration error: got 0.390" in decision.reasons[0])


def test_loss_under_one_corruption_is_rejected():
    """A candidate that is better on the reference and worse on noisy images is rejected."""
    correct = CHAMPION.correctness_by_corruption | {"noisy": np.arange(2_000) < 1_600}
    decision = evaluate_gate(
        make_scores(image_range(100), correctness_by_corruption=correct), CHAMPION, CONFIG
    )
    reason = (
        "accuracy when noisy: got 80.0%, the champion has 90.0%, "
        "accepted: a loss of 5 points or less, or one that is not significant"
    )
    assert ("reject", (reason,)) == (decision.action, decision.reasons)


def test_corruption_under_which_the_champion_fails_is_skipped():
    """A champion that is correct on 10 % of the inverted images, by luck, sets no minimum."""
    champion = make_scores(image_range(200), correctness_by_corruption={"inverted": np.arange(2_000) < 200})
    candidate = make_scores(image_range(100), correctness_by_corruption={"inverted": np.arange(2_000) < 0})
    assert "promote" == evaluate_gate(candidate, champion, CONFIG).action


def test_insignificant_loss_under_a_corruption_is_accepted():
    """Of 20 images two are 10 points."""
    champion = make_scores(image_range(200), correctness_by_corruption={"noisy": np.arange(20) < 18})
    candidate = make_scores(image_range(100), correctness_by_corruption={"noisy": np.arange(20) < 16})
    assert "promote" == evaluate_gate(candidate, champion, CONFIG).action


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"latency_ms": 2.1}, "milliseconds an image: got 2.1"),
        ({"weight_bytes": 20_000_000}, "megabytes: got 20"),
    ],
)
def test_slow_or_large_candidate_is_rejected(change: dict[str, object], reason: str):
    """Latency and size may grow by their factors, however accurate the candidate is."""
    decision = evaluate_gate(make_scores(image_range(100), **change), CHAMPION, CONFIG)
    assert ("reject", True) == (decision.action, reason in decision.reasons[0])


def test_every_guardrail_reports_its_values():
    """Each has the candidate's value, the champion's and the accepted range."""
    checks = evaluate_gate(make_scores(image_range(150)), CHAMPION, CONFIG).checks
    assert [
        *("weights", "classes", "image shape", "accuracy", "recall of 9", "accuracy when thinner"),
        *("calibration error", "milliseconds an image", "megabytes"),
    ] == [check.name for check in checks]
    assert all(check.candidate and check.accepted for check in checks)
    assert all(check.champion for check in checks if check.name not in ("weights", "accuracy"))
