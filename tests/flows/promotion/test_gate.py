"""The gate decides PROMOTE, HOLD or REJECT on scores, with a reason."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relearn.flows.config import PromotionConfig
from relearn.flows.promotion.candidate_scores import ClassifierScores, ReferenceScores
from relearn.flows.promotion.gate import Baseline, evaluate_gate
from relearn.model.evaluation.metrics import Evaluation

CLASSES = tuple("0123456789")
IMAGES = 10_000
LABELS = np.arange(IMAGES) % 10
CONFIG = PromotionConfig()


def predict(wrong: np.ndarray, confidence: float = 0.98, images: int = IMAGES) -> Evaluation:
    """Return probabilities that are highest for the label; for the images in `wrong` for the next class."""
    probabilities = np.full((images, 10), (1 - confidence) / 9, np.float32)
    predicted = LABELS[:images].copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    probabilities[np.arange(images), predicted] = confidence
    return Evaluation(probabilities, LABELS[:images], CLASSES)


def make_scores(evaluation: Evaluation, noisy: np.ndarray | None = None, **changes: Any) -> ClassifierScores:
    """Return scores that are otherwise always the same; `noisy` says which noisy images are correct."""
    correct = {"shifted": np.arange(2_000) < 1_800}
    correct["noisy"] = np.arange(2_000) < 1_800 if noisy is None else noisy
    scores = ClassifierScores(
        evaluation.classes, (1, 28, 28), True, 1_000_000, 0.2, ReferenceScores(evaluation, correct)
    )
    return replace(scores, **changes)


def image_range(count: int, start: int = 0) -> np.ndarray:
    """Return the indices of `count` images of all classes."""
    return np.arange(start, start + count)


CHAMPION = make_scores(predict(image_range(200)))


def make_candidate(gained: int, lost: int = 0, **changes: Any) -> ClassifierScores:
    """Return scores of a candidate that gains and loses so many of the 10,000 images."""
    wrong = np.r_[image_range(200 - gained, gained), image_range(lost, 5_000)]
    return make_scores(predict(wrong), **changes)


def test_significantly_better_candidate_is_promoted():
    """Of 10,000 images 60 are gained and 10 lost."""
    decision = evaluate_gate(make_candidate(60, 10), CHAMPION, CONFIG)

    assert "promote" == decision.action
    assert "better: +0.50 points on 10,000 images (95 % interval +0.35 to +0.68)" == decision.reasons[0]
    assert decision.comparison is not None
    assert (60, 10) == (
        decision.comparison.candidate_only_correct,
        decision.comparison.champion_only_correct,
    )


def test_insignificant_difference_is_held_with_what_the_images_can_show():
    """With 12 images gained and 9 lost the champion stays; the reasons have interval and visible gain."""
    decision = evaluate_gate(make_candidate(12, 9), CHAMPION, CONFIG)

    assert "hold" == decision.action
    assert "+0.03 points on 10,000 images (95 % interval -0.07 to +0.13)" == decision.reasons[0]
    assert re.fullmatch(
        r"10,000 images: gains under 0\.1\d points cannot be told from chance \(power 80%\); [\d,]+ more"
        r" labeled ones bring it to 0\.1 points",
        decision.reasons[1],
    )
    assert "the two differ on all classes alike: images of any class help" == decision.reasons[2]


def test_images_that_would_show_most_are_named():
    """Thirty images of three classes are disputed, two of them of the other classes."""
    disputed = np.concatenate([np.flatnonzero(LABELS == label)[30:40] for label in (3, 4, 7)])
    champion, candidate = (predict(np.r_[part, 5_000]) for part in (disputed[::2], disputed[1::2]))

    decision = evaluate_gate(make_scores(candidate), make_scores(champion), CONFIG)

    classes = " and ".join(f"{name} (10 of 1,000)" for name in "347")
    assert f"the two differ most on {classes}: such images help most" == decision.reasons[2]
    same = evaluate_gate(CHAMPION, CHAMPION, CONFIG)
    assert ("hold", "the two differ on no image") == (same.action, same.reasons[2])


def test_significantly_worse_candidate_is_rejected():
    """Of 10,000 images 50 are lost."""
    decision = evaluate_gate(make_candidate(0, 50), CHAMPION, CONFIG)

    assert "reject" == decision.action
    assert (
        "accuracy: got 97.5%, the champion has 98.0%, a loss of 0.50 points (0.38 to 0.66), accepted: up"
        " to 0 points, or a loss that chance explains" == decision.reasons[0]
    )


def test_each_further_candidate_needs_more_evidence():
    """The levels of all candidates against one champion add up to the significance level."""
    candidate = make_candidate(22, 8)  # p = 0.008

    actions = [
        evaluate_gate(candidate, CHAMPION, CONFIG, Baseline(tested=9, failed=failed)).action
        for failed in range(4)
    ]

    assert ["promote", "promote", "hold", "hold"] == actions


@pytest.mark.parametrize(("lost", "action"), [(10, "promote"), (150, "hold"), (300, "reject")])
def test_non_inferior_candidate_is_promoted_by_that_rule(lost: int, action: str):
    """With `non_inferior` the lower end of the interval has to lie within the margin."""
    config = PromotionConfig(promotion_rule="non_inferior", non_inferiority_margin=0.003)
    candidate = make_scores(predict(np.r_[image_range(200 - lost + 5, lost - 5), image_range(lost, 5_000)]))
    assert action == evaluate_gate(candidate, CHAMPION, config).action


@pytest.mark.parametrize(
    ("gained", "lost", "action"), [(0, 2, "promote"), (40, 55, "hold"), (0, 60, "reject")]
)
def test_candidate_with_more_data_is_promoted_unless_it_visibly_loses(gained: int, lost: int, action: str):
    """With `more_data`, the default, the loss may be the smallest that the images show."""
    candidate, config = make_candidate(gained, lost), PromotionConfig(non_inferiority_margin=0.001)

    decision = evaluate_gate(candidate, CHAMPION, config, has_more_data=True)

    assert (action, action == "promote") == (decision.action, decision.margin > 0)
    assert "promote" != evaluate_gate(candidate, CHAMPION, config).action, "it has learned from no more data"


def test_small_losses_do_not_add_up_over_releases():
    """Nights of candidates that lose 3 images more end below the margin that the first of them states."""
    champion, lost, margins = CHAMPION, 0, set[float]()
    baseline, config = Baseline(CHAMPION.reference), PromotionConfig(non_inferiority_margin=0.001)
    for night in range(1, 31):
        candidate = make_candidate(0, 3 * night)
        decision = evaluate_gate(candidate, champion, config, baseline, has_more_data=True)
        is_promoted = decision.action == "promote"
        baseline = replace(baseline, tested=night, failed=baseline.failed + (not is_promoted))
        if is_promoted:
            champion, lost, baseline = candidate, 3 * night, replace(baseline, margin=decision.margin)
            margins.add(decision.margin)
            assert (
                f"less than {100 * decision.margin:.2f} points since the last better" in decision.reasons[0]
            )

    (margin,) = margins
    assert 0 < lost / IMAGES < margin


def test_each_failed_candidate_makes_the_accepted_loss_smaller():
    """A candidate that gains 6 images and loses 12 is promoted as the first, not after 20 failed ones."""
    config, actions = PromotionConfig(non_inferiority_margin=0.002), []
    for failed in (0, 20):
        baseline = Baseline(failed=failed)
        decision = evaluate_gate(make_candidate(6, 12), CHAMPION, config, baseline, has_more_data=True)
        actions.append(decision.action)
    assert ["promote", "hold"] == actions


def test_gain_over_the_champion_alone_makes_no_new_baseline():
    """A candidate that wins back what the champion had lost is promoted, and losses count as before."""
    lossy, regained = make_candidate(0, 40), make_candidate(0, 5)
    baseline = Baseline(CHAMPION.reference, margin=0.006, tested=1)

    decision = evaluate_gate(regained, lossy, CONFIG, baseline)
    assert ("promote", 0.006) == (decision.action, decision.margin)
    decision = evaluate_gate(make_candidate(60), lossy, CONFIG, baseline)
    assert ("promote", 0.0) == (decision.action, decision.margin)


def test_first_release_names_its_weak_spots():
    """Without a champion the requirements decide; corruptions under which most images are wrong are named."""
    inverted = make_scores(predict(image_range(200)), noisy=np.arange(2_000) < 60)

    assert ("the first release of this model",) == evaluate_gate(CHAMPION, None, CONFIG).reasons
    decision = evaluate_gate(inverted, None, CONFIG)
    assert ("promote", "weak: 3% when noisy") == (decision.action, decision.reasons[1])
    decision = evaluate_gate(CHAMPION, None, PromotionConfig(min_accuracy=0.99))
    assert ("reject", True) == (
        decision.action,
        "minimum accuracy: got 98.00%, accepted: 99.00%" in decision.reasons[0],
    )


@pytest.mark.parametrize("images", [3, 20, 37, 150])
def test_guesses_seldom_pass_as_a_first_release(images: int):
    """A classifier without any skill is released in 5 % of the cases at most, with any number of images."""
    rng, released = np.random.default_rng(images), 0
    for _ in range(300):
        labels = rng.integers(0, 2, images)
        probabilities = np.eye(2, dtype=np.float32)[rng.integers(0, 2, images)] * 0.2 + 0.4
        scores = make_scores(Evaluation(probabilities, labels, ("a", "b")))
        released += evaluate_gate(scores, None, CONFIG).action == "promote"

    assert released <= 0.05 * 300 + 2 * np.sqrt(300 * 0.05 * 0.95)


def test_too_few_images_for_a_first_release_are_named():
    """Three images show nothing, even if all are correct."""
    decision = evaluate_gate(make_scores(predict(image_range(0), images=1)), None, CONFIG)
    assert "accepted: more test images: 1 show nothing" in decision.reasons[0]


def test_constant_classifier_is_rejected():
    """An accuracy of the majority class baseline is not enough, however high it is."""
    labels = np.where(np.arange(1_000) < 900, 0, 1)
    constant = Evaluation(np.tile(np.float32([0.9, 0.1]), (1_000, 1)), labels, ("a", "b"))
    decision = evaluate_gate(make_scores(constant), None, CONFIG)
    assert ("reject", True) == (decision.action, "better than guessing: got 900 of" in decision.reasons[0])


def test_weights_that_are_not_finite_are_rejected():
    """They are the only reason."""
    broken = make_scores(predict(image_range(0)), weights_are_finite=False, reference=None)
    decision = evaluate_gate(broken, CHAMPION, CONFIG)
    assert "reject" == decision.action
    assert ("weights: got NaN or infinite numbers, accepted: finite numbers",) == decision.reasons


def test_other_classes_are_rejected():
    """Clients rely on the order too: the same ten classes in another order are rejected."""
    other = make_scores(predict(image_range(0)), classes=CLASSES[::-1], reference=None)
    decision = evaluate_gate(other, CHAMPION, CONFIG)
    assert ("reject", True) == (decision.action, "classes: got 9, 8, 7" in decision.reasons[0])


def test_candidate_that_sees_other_pixels_is_compared():
    """It is promoted for a gain, with what clients that send numbers have to change."""
    decision = evaluate_gate(make_candidate(60, 10, shape=(3, 224, 224)), CHAMPION, CONFIG)
    note = "requests with numbers need 3 × 224 × 224 of them an image instead of 1 × 28 × 28"
    assert ("promote", f"{note}; image files may stay") == (decision.action, decision.reasons[1])


def test_corruptions_that_only_one_of_two_styles_has_are_no_harm():
    """A candidate for photos is not asked for inverted drawings."""
    correct = {"shifted": np.ones(2_000, bool)}
    candidate = make_candidate(60, 10, reference=ReferenceScores(predict(image_range(100)), correct))
    assert "promote" == evaluate_gate(candidate, CHAMPION, CONFIG).action


def test_candidate_without_comparison_is_rejected():
    """If neither can be evaluated on the reference set, the champion stays."""
    unevaluated = replace(CHAMPION, reference=None)
    assert "reject" == evaluate_gate(unevaluated, unevaluated, CONFIG).action


def test_loss_of_recall_in_one_class_is_rejected_by_name():
    """A candidate that is better overall and worse on the 7 is rejected."""
    sevens = np.flatnonzero(LABELS == 7)[:60]
    decision = evaluate_gate(make_scores(predict(sevens)), CHAMPION, CONFIG)

    assert "promote" == evaluate_gate(make_candidate(140), CHAMPION, CONFIG).action
    assert "reject" == decision.action
    assert any(
        reason.startswith("recall of 7: got 94.0%, the champion has 98.0%, a loss of 4.00 points (")
        for reason in decision.reasons
    ), decision.reasons


@pytest.mark.parametrize(("lost", "action"), [(1, "hold"), (15, "reject")])
def test_loss_that_chance_explains_is_accepted_in_a_small_class(lost: int, action: str):
    """Of 30 images one is 3 points and accepted; half of them is rejected."""
    sevens = np.flatnonzero(LABELS[:300] == 7)
    champion = make_scores(predict(image_range(0), images=300))
    candidate = make_scores(predict(sevens[:lost], images=300))
    assert action == evaluate_gate(candidate, champion, CONFIG).action


def test_less_honest_probabilities_are_rejected():
    """The accuracy is better, and the confidence 0.6 instead of 0.98: a log loss of 0.55 instead of 0.14."""
    decision = evaluate_gate(make_scores(predict(image_range(100), confidence=0.6)), CHAMPION, CONFIG)
    assert ("reject", True) == (decision.action, decision.reasons[0].startswith("log loss: got 0.5"))


def test_small_rise_of_the_log_loss_does_not_stop_a_better_candidate():
    """A confidence of 0.95 costs 0.03 nats."""
    decision = evaluate_gate(make_scores(predict(image_range(100), confidence=0.95)), CHAMPION, CONFIG)
    assert "promote" == decision.action, decision.reasons


@pytest.mark.parametrize(
    ("correct", "images", "action"),
    [(1_600, 2_000, "reject"), (16, 20, "promote"), (1_790, 2_000, "promote")],
)
def test_loss_under_one_corruption(correct: int, images: int, action: str):
    """Ten points on 2,000 noisy images are rejected; on 20 images chance explains them."""
    champion = make_scores(predict(image_range(200)), noisy=np.arange(images) < 0.9 * images)
    candidate = make_candidate(100, noisy=np.arange(images) < correct)
    assert action == evaluate_gate(candidate, champion, CONFIG).action


def test_corruption_under_which_the_champion_fails_is_skipped():
    """A champion that is correct on 10 % of the noisy images, by luck, sets no minimum."""
    champion = make_scores(predict(image_range(200)), noisy=np.arange(2_000) < 200)
    candidate = make_candidate(100, noisy=np.zeros(2_000, bool))
    assert "promote" == evaluate_gate(candidate, champion, CONFIG).action


@pytest.mark.parametrize(
    ("budget", "change", "reason"),
    [
        ({"max_latency_ms": 2}, {"latency_ms": 2.1}, "latency: got 2.1 ms an image, accepted: 2 ms"),
        ({"max_megabytes": 19}, {"weight_bytes": 20_000_000}, "size: got 20 MB, accepted: 19 MB or less"),
    ],
)
def test_budgets_are_kept(budget: dict[str, float], change: dict[str, Any], reason: str):
    """Time and size have limits only where they are set, however accurate the candidate is."""
    decision = evaluate_gate(make_candidate(100, **change), CHAMPION, PromotionConfig(**budget))
    assert ("reject", True) == (decision.action, reason in decision.reasons[0])
    assert "promote" == evaluate_gate(make_candidate(100, **change), CHAMPION, CONFIG).action


def test_guardrails_report_their_values():
    """Each has the candidate's value and the accepted range; one stands for all that pass."""
    checks = evaluate_gate(make_candidate(50), CHAMPION, CONFIG).checks
    assert ["weights", "classes"] == [check.name for check in checks[:2]]
    assert all(check.candidate and check.accepted and check.passed for check in checks)
    assert "points (" in checks[2].loss


def make_pair(seed: int, images: int, classes: int, accuracy: float, gain: float) -> list[ClassifierScores]:
    """Return champion and candidate whose correctness is drawn by chance, with the same hard images."""
    rng = np.random.default_rng(seed)
    labels, easiness = rng.integers(0, classes, images), rng.random(images)
    names, scores = tuple(map(str, range(classes))), []
    for mean in (accuracy, accuracy + gain):
        is_correct = rng.random(images) < np.clip(mean + (easiness - 0.5) * (1 - mean), 0, 1)
        predicted = np.where(is_correct, labels, (labels + 1) % classes)
        confidence = 0.6 + 0.35 * rng.random(images)
        probabilities = np.outer(1 - confidence, np.full(classes, 1 / (classes - 1)))
        probabilities[np.arange(images), predicted] = confidence
        scores.append(make_scores(Evaluation(probabilities.astype(np.float32), labels, names)))
    return scores


@pytest.mark.parametrize(("images", "classes", "accuracy"), [(35, 2, 0.7), (37, 2, 0.85), (150, 3, 0.85)])
def test_equal_candidates_are_held(images: int, classes: int, accuracy: float):
    """Candidates that are truly equal are rejected, and promoted, in 5 % of the cases at most."""
    actions = Counter(
        evaluate_gate(candidate, champion, CONFIG).action
        for champion, candidate in (make_pair(seed, images, classes, accuracy, 0) for seed in range(60))
    )

    assert actions["reject"] <= 7, actions  # as chance gives with 5 % in 99 of 100 cases
    assert actions["promote"] <= 7, actions


def test_truly_better_candidates_are_promoted():
    """Ten points on 1,000 images are found in every case: a gate that always holds fails here."""
    pairs = [make_pair(seed, 1_000, 10, 0.8, 0.1) for seed in range(10)]
    assert {"promote"} == {evaluate_gate(candidate, champion, CONFIG).action for champion, candidate in pairs}


@pytest.mark.parametrize("metric", ["balanced_accuracy", "log_loss"])
def test_other_metrics_decide(metric: str):
    """A gain in a rare class, and one in the probabilities, count where the metric is chosen."""
    labels = np.r_[np.zeros(980, int), np.ones(20, int)]
    rare = np.flatnonzero(labels)
    champion, candidate = (
        make_scores(_evaluate_binary(labels, wrong, confidence))
        for wrong, confidence in ((rare[:18], 0.8), (np.r_[rare[:2], np.arange(18)], 0.9))
    )

    decision = evaluate_gate(candidate, champion, PromotionConfig(promotion_metric=metric))

    assert "hold" == evaluate_gate(candidate, champion, CONFIG).action
    assert ("promote", True) == (decision.action, metric.replace("_", " ") in decision.reasons[0])


def test_loss_of_accuracy_is_no_harm_where_balanced_accuracy_decides():
    """Ninety errors in a common class for 43 in a rare one are a gain of balanced accuracy, and no harm."""
    labels = np.r_[np.zeros(9_900, int), np.ones(100, int)]
    rare = np.flatnonzero(labels)
    champion = make_scores(_evaluate_binary(labels, rare[:45], 0.9))
    candidate = make_scores(_evaluate_binary(labels, np.r_[rare[:2], np.arange(90)], 0.9))
    config = PromotionConfig(promotion_metric="balanced_accuracy")

    assert "promote" == evaluate_gate(candidate, champion, config).action
    assert "reject" == evaluate_gate(champion, candidate, config).action
    assert "reject" == evaluate_gate(candidate, champion, CONFIG).action


def _evaluate_binary(labels: np.ndarray, wrong: np.ndarray, confidence: float) -> Evaluation:
    probabilities = np.full((len(labels), 2), 1 - confidence, np.float32)
    predicted = labels.copy()
    predicted[wrong] = 1 - predicted[wrong]
    probabilities[np.arange(len(labels)), predicted] = confidence
    return Evaluation(probabilities, labels, ("common", "rare"))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(2, 5))
def test_a_better_candidate_is_never_a_worse_champion(seed: int, images: int, classes: int):
    """With candidate and champion exchanged, what was promoted is not promoted."""
    first, second = make_pair(seed, images, classes, 0.5, 0.4)
    actions = [evaluate_gate(*pair, CONFIG).action for pair in ((first, second), (second, first))]
    assert actions.count("promote") <= 1
