"""Promises of groups in the statistics: repeated photos of one thing are not more evidence than one photo."""

from dataclasses import replace

import numpy as np
import pytest

from relearn.model.evaluation.groups import (
    compute_design_effect,
    gain_interval,
    gain_p_value,
    number_groups,
    scale_counts,
    sum_by_group,
)
from relearn.model.evaluation.metrics import Evaluation
from relearn.model.evaluation.paired_comparison import PairedComparison
from relearn.model.evaluation.power import find_visible_difference
from relearn.model.evaluation.significance import mcnemar

RNG = np.random.default_rng(0)


def repeat(values: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each value so many times, and the numbers of the groups."""
    return np.repeat(values, times), np.repeat(np.arange(len(values)), times)


def draw_gains(images: int, discordant: float = 0.2, better: float = 0.5) -> np.ndarray:
    return np.where(RNG.random(images) < discordant, np.where(RNG.random(images) < better, 1, -1), 0)


def test_groups_of_one_image_change_nothing() -> None:
    """Every figure is that of images that stand alone, but for Student's quantile, which is 1 % larger."""
    gains = draw_gains(100)
    assert compute_design_effect(gains, np.arange(100)) == pytest.approx(1, abs=0.04)
    assert gain_interval(gains, None) == pytest.approx(gain_interval(gains, np.arange(100)), abs=0.003)
    wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
    assert mcnemar(wins, losses) == gain_p_value(gains, None)
    assert gain_p_value(gains, None) == pytest.approx(gain_p_value(gains, np.arange(100)), abs=0.02)


@pytest.mark.parametrize("times", [2, 7])
def test_repeated_images_are_no_more_evidence(times: int) -> None:
    """With each image several times, p-value and interval are those of each once, to 2 % of the evidence."""
    gains = draw_gains(200, better=0.7)
    repeated, groups = repeat(gains, times)
    assert compute_design_effect(repeated, groups) == pytest.approx(times, rel=0.02)
    assert scale_counts(repeated, groups) == pytest.approx(scale_counts(gains, None), rel=0.02)
    assert gain_interval(repeated, groups) == pytest.approx(gain_interval(gains, None), abs=0.003)
    assert gain_p_value(gains, None) == pytest.approx(gain_p_value(repeated, groups), abs=0.02)
    losses = RNG.normal(size=50)
    repeated_losses, loss_groups = repeat(losses, times)
    assert gain_interval(losses, None) == pytest.approx(gain_interval(repeated_losses, loss_groups))


def test_equal_results_have_an_interval_of_as_many_groups() -> None:
    """No difference on 10 groups of 30 images shows no more than 10 images do, one group no more than 1."""
    nothing, groups = repeat(np.zeros(10, int), 30)
    alone, grouped = gain_interval(np.zeros(10, int), None), gain_interval(nothing, groups)
    assert 1.3 * alone[1] == pytest.approx(grouped[1], rel=0.1)  # Student's quantile of ten
    assert gain_interval(np.zeros(1, int), None) == gain_interval(nothing, np.zeros(300, int))


def test_equally_good_candidates_seem_better_in_five_percent() -> None:
    """At most 6 % of 2,000 equal pairs on 40 groups of 1 to 20 images have p <= 0.05; else 20 % have."""
    sizes = RNG.integers(1, 21, 40)
    groups = np.repeat(np.arange(40), sizes)
    seem_better = [0, 0]
    for _ in range(2_000):
        gains = np.where(RNG.random(len(groups)) < 0.8, draw_gains(40, 0.5)[groups], 0)  # alike in a group
        seem_better[0] += gain_p_value(gains, groups) <= 0.05
        seem_better[1] += gain_p_value(gains, None) <= 0.05
    assert seem_better[0] <= 120
    assert seem_better[1] >= 400


def test_intervals_of_groups_hold_the_truth() -> None:
    """Intervals hold the true gain in at least 93 % of 1,000 samples of 60 groups of 1 to 10 images."""
    held = 0
    for _ in range(1_000):
        groups = np.repeat(np.arange(60), RNG.integers(1, 11, 60))
        gains = np.where(RNG.random(len(groups)) < 0.8, draw_gains(60, 0.4, 0.65)[groups], 0)
        low, high = gain_interval(gains, groups)
        held += low <= 0.8 * 0.4 * 0.3 <= high
    assert held >= 930


def test_comparison_counts_groups() -> None:
    """A comparison says how many groups there are, and sees no smaller gain than they allow."""
    labels, groups = repeat(np.arange(60) % 2, 5)
    correct = [repeat(RNG.random(60) < accuracy, 5)[0] for accuracy in (0.8, 0.7)]
    single, grouped = (
        PairedComparison.from_evaluations(
            *(
                Evaluation(
                    np.eye(2, dtype=np.float32)[np.where(is_correct, labels, 1 - labels)][part],
                    labels[part],
                    ("a", "b"),
                    numbers,
                )
                for is_correct in correct
            )
        )
        for part, numbers in ((slice(None, None, 5), None), (slice(None), groups))
    )
    assert (60, 300, None, 60) == (single.images, grouped.images, single.groups, grouped.groups)
    assert "300 images of 60 groups" in str(grouped)
    assert (single.ci_low, single.ci_high) == pytest.approx((grouped.ci_low, grouped.ci_high), abs=0.01)
    assert find_visible_difference(grouped, 0.025) == pytest.approx(
        find_visible_difference(single, 0.025), rel=0.1
    )


def test_keys_are_numbered() -> None:
    """Images that all stand alone have no groups."""
    assert number_groups(None) is None
    assert number_groups(np.array([5, 3, 9])) is None
    assert [1, 0, 1] == number_groups(np.array([[5, 1], [3, 1], [5, 1]], np.uint64)).tolist()
    assert [1, 0, 1] == number_groups(np.array(["b", "a", "b"])).tolist()
    assert [3, 4] == sum_by_group(np.array([1, 4, 2]), np.array([2, 7, 2])).tolist()


def test_balanced_accuracy_of_groups_in_several_classes_covers_the_truth() -> None:
    """Two equal classifiers, 30 groups of 3 + 3 images: 95 % of 300 intervals hold 0, to four errors."""
    rng, groups, labels = np.random.default_rng(1), np.repeat(np.arange(30), 6), np.arange(180) % 2
    covered = 0
    for _ in range(300):
        evaluations = []
        for _ in range(2):
            is_right = rng.random(180) < 0.8 + 0.15 * rng.choice([-1, 1], 30)[groups]
            predictions = np.eye(2, dtype=np.float32)[np.where(is_right, labels, 1 - labels)]
            evaluations.append(replace(Evaluation(predictions, labels, ("a", "b")), groups=groups))
        comparison = PairedComparison.from_evaluations(*evaluations, "balanced_accuracy")
        covered += comparison.ci_low <= 0 <= comparison.ci_high
    assert covered >= 300 * (0.95 - 4 * np.sqrt(0.95 * 0.05 / 300))
